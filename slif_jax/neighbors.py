"""Nearest rows of large tables by cosine, before training: on one device, or dealt out over a mesh.

Tables are read by rows: each process of a run reads those of its devices alone. The neighbours by what was learned, in
every epoch, are `graphs.nearest_neighbors`.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, Int

from slif_jax import ops
from slif_jax.collectives import Axis, as_varying, num_shards, shard_index
from slif_jax.kernels.topk import TopK
from slif_jax.meshes import OnMesh, Rows

_ROWS_READ = 4096  # at a time
_LEAST_LENGTH = 1e-12  # what is shorter stays as it is, and has no neighbours to speak of


class SideBySide:
    """Some rows of several tables, each at unit length in every table, side by side.

    The inner product of two such rows is the sum of their cosines.

    Attributes:
      shape: `(n, d)`, d being the tables' widths together.
      dtype: float32.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, tables: Sequence[Rows], ids: np.ndarray) -> None:
        """Nothing is read yet.

        Args:
          tables: `[N, d_t]` each.
          ids: `[n]` the rows to take.
        """
        self._tables, self._ids = tables, ids
        self.shape = (len(ids), sum(table.shape[1] for table in tables))

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """`[m, d]` float32, a new array."""
        ids = self._ids[rows]
        out = np.empty((len(ids), self.shape[1]), np.float32)
        for first in range(0, len(ids), _ROWS_READ):  # raw features are large: no second copy of all of them
            end = 0
            for table in self._tables:
                start, end = end, end + table.shape[1]
                part = out[first : first + _ROWS_READ, start:end]
                part[:] = table[ids[first : first + _ROWS_READ]]
                with np.errstate(over="ignore"):  # what is infinitely long becomes zero
                    norms = np.linalg.norm(part, axis=1, keepdims=True)
                np.divide(part, norms, out=part, where=norms > _LEAST_LENGTH)
        return out


def nearest_rows(
    queries: Rows, keys: Rows, num_neighbors: int, mesh: Mesh | None = None
) -> tuple[Int[np.ndarray, "m k"], Float[np.ndarray, "m k"]]:
    """For each query the k keys with the largest positive inner product, without the table of all products.

    Args:
      queries: `[M, D]` float32.
      keys: `[N, D]` float32; where they are the queries themselves (the same object), a row is not its own neighbour.
      num_neighbors: k.
      mesh: devices to share the work: each has 1/D of both tables, and keys go round in blocks. None for the default
        device alone.

    Returns:
      `[M, k]` rows of `keys`, largest first, ties to the lower row, -1 where no product is positive; and `[M, k]`
      products, 0 there.
    """
    same = queries is keys
    if mesh is None:
        have = jnp.asarray(queries[:])
        found = _nearest(have, have if same else jnp.asarray(keys[:]), num_neighbors, same, None)
        values, indices = (np.asarray(part) for part in found)
    else:
        at = OnMesh(mesh)
        dealt = at.deal(queries)
        mapped = jax.shard_map(
            functools.partial(_nearest, k=num_neighbors, same=same, axis=at.axis),
            mesh=mesh,
            in_specs=at.rows,
            out_specs=at.rows,
        )
        found = jax.jit(mapped)(dealt, dealt if same else at.deal(keys))
        values, indices = (at.on_host(part)[: queries.shape[0]] for part in found)
    positive = values > 0
    return np.where(positive, indices, -1), np.where(positive, values, 0.0).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(2, 3, 4), static_argnames=("k", "same", "axis"))
def _nearest(queries: Float[Array, "m d"], keys: Float[Array, "n d"], k: int, same: bool, axis: Axis) -> TopK:
    """Keys go from device to device; each keeps the best of what it has seen. No device has all of them at once."""
    if axis is None:
        return ops.topk(queries, keys, k, exclude="self" if same else None)
    devices, own, rows = num_shards(axis), shard_index(axis), keys.shape[0]
    back = [(device, (device - 1) % devices) for device in range(devices)]

    def turn(number: Array, carried: tuple[Array, TopK]) -> tuple[Array, TopK]:
        block, best = carried
        owner = (own + number) % devices
        found = ops.topk(
            queries, block, k, exclude="self" if same else None, row_offset=(own - owner) * rows if same else 0
        )
        ids = jnp.where(found.indices >= 0, found.indices + owner * rows, -1)
        values = jnp.concatenate([best.values, found.values], axis=1)
        merged = jax.lax.sort((-values, jnp.concatenate([best.indices, ids], axis=1)), num_keys=2)
        return jax.lax.ppermute(block, axis, back), TopK(-merged[0][:, :k], merged[1][:, :k])

    nothing = TopK(jnp.full((len(queries), k), -jnp.inf), jnp.full((len(queries), k), -1, jnp.int32))
    return jax.lax.fori_loop(0, devices, turn, (keys, as_varying(nothing, axis)))[1]
