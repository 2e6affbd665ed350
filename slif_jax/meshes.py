"""Meshes of devices, and how arrays of the host come onto them, row by row, and back."""

import contextlib
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def parse_mesh(text: str) -> dict[str, int]:
    """Reads the sizes of a mesh.

    Args:
      text: such as 'data:8' or 'data:4,model:2'; '' or 'none' for no mesh.

    Returns:
      Sizes by axis name, in order.

    Raises:
      ValueError: on anything else.
    """
    sizes: dict[str, int] = {}
    for part in text.replace(" ", "").split(",") if text not in ("", "none") else []:
        name, _, size = part.partition(":")
        if not name.isidentifier() or not size.isdecimal() or int(size) < 1 or name in sizes:
            raise ValueError(f"A mesh is written like 'data:8' or 'data:4,model:2': got '{text}'.")
        sizes[name] = int(size)
    return sizes


def make_mesh(text: str) -> Mesh | None:
    """The mesh that `text` asks for, over all devices of all processes.

    Args:
      text: see `parse_mesh`.

    Returns:
      A mesh, or None for no mesh.

    Raises:
      ValueError: if the text cannot be read, or there are not as many devices.
    """
    sizes = parse_mesh(text)
    if not sizes:
        return None
    wanted, have = math.prod(sizes.values()), jax.device_count()
    if wanted > have or (jax.process_count() > 1 and wanted != have):
        hint = ""
        if jax.devices()[0].platform == "cpu":
            hint = f" To try it out on a CPU: XLA_FLAGS=--xla_force_host_platform_device_count={wanted}."
        raise ValueError(f"--mesh={text} asks for {wanted} devices, there are {have}.{hint}")
    devices = None if wanted == have else jax.devices()[:wanted]
    types = (AxisType.Auto,) * len(sizes)  # explicit axes do not allow what graphs need
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=types, devices=devices)


def check_divides(mesh: Mesh, sizes: dict[str, int]) -> None:
    """Refuses sizes that cannot be shared evenly.

    Args:
      mesh: the mesh.
      sizes: by the name of their setting.

    Raises:
      ValueError: naming the first that is not a multiple of the devices.
    """
    for name, size in sizes.items():
        if size % mesh.size:
            better = -(-size // mesh.size) * mesh.size
            raise ValueError(f"--{name} must be a multiple of the {mesh.size} devices: got {size}. Try {better}.")


def built_on_host(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Where a training on a mesh builds what is then dealt out: in the memory of the host, not of one device.

    Args:
      mesh: the devices; with None everything stays on the default device.

    Returns:
      A context in which new arrays are the host's. Where JAX was told to leave the CPU alone (`JAX_PLATFORMS`), they
      are the default device's.
    """
    if mesh is None:
        return contextlib.nullcontext()
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


@runtime_checkable
class Rows(Protocol):
    """A table of which some rows can be had at a time, wherever the others are."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """The rows of a slice, or of an array of ids."""
        ...


def host_rows(values: Any) -> Rows:
    """A table as the host can read it: what is on a device is fetched, what lies in a file stays there."""
    return np.asarray(values) if isinstance(values, jax.Array) else values


class OnMesh:
    """Puts arrays of the host on a mesh, and gets them back.

    In a run of several processes each of them calls everything with equal arguments, and puts what its devices hold.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.axis = tuple(mesh.axis_names)
        self.rows = PartitionSpec(self.axis)
        self._everywhere = jax.jit(lambda x: x, out_shardings=self._sharding(PartitionSpec()))

    def replicate(self, tree: Any) -> Any:
        """The same arrays on every device."""

        def put(x: Any) -> jax.Array:
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
            host = np.asarray(x)
            return jax.make_array_from_callback(host.shape, self._sharding(PartitionSpec()), lambda index: host[index])

        return jax.tree.map(put, tree)

    def assemble(self, make_part: Callable[[int], Any]) -> Any:
        """Arrays made part by part: `make_part(k)` is what device k has, of equal shapes for all."""
        devices = list(enumerate(self.mesh.devices.flat))
        mine = [(k, device) for k, device in devices if device.process_index == jax.process_index()]
        parts = [jax.device_put(make_part(k), device) for k, device in mine]

        def join(*leaves: jax.Array) -> jax.Array:
            shape = (len(devices) * leaves[0].shape[0], *leaves[0].shape[1:])
            return jax.make_array_from_single_device_arrays(shape, self._sharding(self.rows), list(leaves))

        return jax.tree.map(join, *parts)

    def deal(self, values: Any) -> jax.Array:
        """An array `[N, ...]` in blocks of equal length, in its own order, zeros behind the end."""
        host = host_rows(values)
        each = max(1, -(-host.shape[0] // self.mesh.size))

        def part(k: int) -> np.ndarray:
            block = host[k * each : (k + 1) * each]
            return np.pad(block, ((0, each - len(block)), *((0, 0),) * (block.ndim - 1)))

        return self.assemble(part)

    def on_host(self, x: jax.Array) -> np.ndarray:
        """All of an array, in its whole shape, on every host."""
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        return np.asarray(self._everywhere(x))

    def _sharding(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, spec)
