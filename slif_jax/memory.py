"""The memory that a training needs, estimated from shapes, and the refusal to start one that does not fit.

The bytes are counted by `slif_jax.planning`, for one device as for many.
"""

import os
from pathlib import Path

import jax

from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.planning.remedies import Setting, gib, settings_that_fit
from slif_jax.planning.sizes import dense_parameters, sizes_of, table_parameters
from slif_jax.planning.space import device_bytes, host_bytes

_PROGRAM_BYTES = 850 * 2**20  # Python, JAX, and the compiler while it works on an epoch
_PROGRAM = "program and compiler"
_COPY = "copy of these for a checkpoint"
_SAVED = ("parameters", "optimizer", "average of the parameters", "self-loop")
_NO_LIMIT = 1 << 62


class WillNotFitError(ValueError):
    """A training needs more memory than there is."""


def num_parameters(dataset: Dataset, config: Config) -> int:
    """Numbers in the parameters of the model that fits the data.

    Args:
      dataset: loaded data.
      config: switches and widths.

    Returns:
      The count.
    """
    sizes = sizes_of(dataset, config)
    return table_parameters(sizes, config) + dense_parameters(sizes, config)


def estimate(dataset: Dataset, config: Config, *, devices: int = 1) -> dict[str, int]:
    """Bytes that training takes at its peak, by purpose.

    Args:
      dataset: loaded data.
      config: switches, widths and neighbour counts.
      devices: D, the devices of the mesh.

    Returns:
      Bytes per device by purpose, and their 'total'. On a GPU or TPU all but 'program and compiler' and the copy for
      a checkpoint is the device's.
    """
    return _estimate(Setting(sizes_of(dataset, config), config, devices), on_host=True)


def _estimate(at: Setting, *, on_host: bool) -> dict[str, int]:
    parts = device_bytes(at.sizes, at.config, devices=at.devices, native_kernels=on_host)
    if on_host:
        parts = {_PROGRAM: _PROGRAM_BYTES // at.devices} | parts | {_COPY: sum(parts[name] for name in _SAVED)}
    return parts | {"total": sum(parts.values())}


def check_fits(
    dataset: Dataset, config: Config, available_bytes: int | None = None, *, devices: int = 1
) -> dict[str, int]:
    """Refuses a training that needs more memory than there is, before anything is built.

    Args:
      dataset: loaded data.
      config: settings.
      available_bytes: per device; None asks the device, and where it is the CPU, the system.
      devices: D, the devices of the mesh. Those of a CPU share its memory.

    Returns:
      Bytes by purpose, and their 'total', as they were compared.

    Raises:
      WillNotFitError: with the numbers, and what would make it fit. Where several devices have memories of their own,
        also if the host cannot hold what is dealt out to them.
    """
    on_host = jax.default_backend() == "cpu"
    at = Setting(sizes_of(dataset, config), config, devices)
    parts = _estimate(at, on_host=on_host)
    available = free_bytes() if available_bytes is None else available_bytes
    if on_host and available_bytes is None:
        available //= min(devices, jax.local_device_count())
    if parts["total"] <= available:
        if not on_host:
            _check_host(at)
        return parts

    def needed(setting: Setting) -> int:
        return _estimate(setting, on_host=on_host)["total"]

    # Virtual devices share the memory of the machine: more of them help nobody.
    hints = settings_that_fit(at, needed, available, most_devices=devices if on_host else 1 << 16)
    advice = " ".join(hints) if hints else "no setting alone; take more devices, or less data and a smaller --width."
    largest = sorted((item for item in parts.items() if item[0] != "total"), key=lambda item: -item[1])[:3]
    words = ", ".join(f"{name} {gib(value)}" for name, value in largest)
    raise WillNotFitError(
        f"This training needs {gib(parts['total'])} per device, and there are {gib(available)}. Most of it: {words}. "
        f"What would fit: {advice}"
    )


def _check_host(at: Setting) -> None:
    """Where devices have a memory of their own, what is dealt out to them is built in that of the host."""
    needed = host_bytes(at.sizes, at.config, at.devices)
    if needed > (room := _host_free_bytes()):
        raise WillNotFitError(
            f"Each process builds the graphs and the first state in its host's memory: {gib(needed)}, and there are "
            f"{gib(room)}. Start one process per host, or take hosts with more memory."
        )


def free_bytes() -> int:
    """Memory that this process can have: the first device's limit, or what the system has left for programs.

    Returns:
      Bytes. Of the system's figure and a limit on this process's group the lower one.
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        if "bytes_limit" in stats:
            return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    return _host_free_bytes()


def _host_free_bytes() -> int:
    return min(system_bytes(Path("/proc/meminfo")), group_bytes(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")))


def system_bytes(meminfo: Path) -> int:
    """What the system can give to programs: 'MemAvailable', or else all of the memory.

    Args:
      meminfo: the file that Linux has at /proc/meminfo; it may be absent.

    Returns:
      Bytes.
    """
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def group_bytes(mount: Path, membership: Path) -> int:
    """What the control groups of this process leave to it, version 2 or 1.

    Args:
      mount: where the groups are mounted.
      membership: the file that Linux has at /proc/self/cgroup.

    Returns:
      Bytes; a number beyond all memory where there is no limit.
    """
    try:
        lines = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return _NO_LIMIT
    left = _NO_LIMIT
    for _, kinds, place in lines:
        if kinds not in ("", "memory"):
            continue
        root = mount / kinds
        names = ("limit_in_bytes", "usage_in_bytes") if kinds else ("max", "current")
        folder = root / place.strip("/")
        # A group lies within others, whose limits hold as well; in a container the path may be that of another system.
        for group in (folder, *folder.parents):
            if group.is_relative_to(root):
                limit, used = (_number(group / f"memory.{name}") for name in names)
                if limit is not None and used is not None:
                    left = min(left, max(limit - used, 0))
    return left


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # absent, or 'max'
        return None
