"""Items without training interactions: what they inherit from the items that their features and triples are like."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, Int

from slif_jax.collectives import Axis, gather_rows, total
from slif_jax.data import Dataset, FilledRows
from slif_jax.losses import normalise_rows
from slif_jax.meshes import Rows
from slif_jax.neighbors import SideBySide, nearest_rows

_PROFILE_WIDTH = 256


class ColdItems(NamedTuple):
    """Items without training interactions, and warm items near each. c items, k neighbours."""

    items: Int[Array, " c"]
    """Ascending."""
    neighbors: Int[Array, "c k"]
    weights: Float[Array, "c k"]
    """Each row sums to 1."""
    num_others: Float[Array, ""]
    """Items that are not among `items`."""


def find_cold_items(
    dataset: Dataset, modalities: tuple[str, ...], *, knowledge: bool, num_neighbors: int, mesh: Mesh | None = None
) -> ColdItems | None:
    """The items without training interactions that some source says anything of.

    The nearness of two items is the sum of their cosines in every source: in each modality, of the raw features; in the
    knowledge graph, of the entities they are linked to, where an entity weighs less the more items it is linked to.
    Cosines of entities are taken after a sparse random projection, so that no array over all entities is made.

    Args:
      dataset: loaded data.
      modalities: those to use.
      knowledge: whether the triples are used.
      num_neighbors: k.
      mesh: devices to share the search; None for the default device alone.

    Returns:
      `ColdItems` on the default device; an item that is like no warm item is not among them. None without any.
    """
    is_cold = np.bincount(dataset.train[:, 1], minlength=dataset.num_items) == 0
    if not is_cold.any() or is_cold.all() or not (modalities or knowledge):
        return None
    cold, warm = np.flatnonzero(is_cold), np.flatnonzero(~is_cold)
    sources: list[Rows] = [FilledRows(dataset.features[name]) for name in modalities]
    if knowledge:
        sources.append(_EntityProfiles(dataset))
    queries, keys = SideBySide(sources, cold), SideBySide(sources, warm)
    found, cosines = nearest_rows(queries, keys, num_neighbors, mesh)
    sums = cosines.sum(axis=1)
    some = sums > 0
    if not some.any():
        return None
    return ColdItems(
        jnp.asarray(cold[some].astype(np.int32)),
        jnp.asarray(warm[np.maximum(found, 0)][some].astype(np.int32)),
        jnp.asarray(cosines[some] / sums[some, None]),
        jnp.float32(dataset.num_items - int(some.sum())),
    )


def inherit(x: Float[Array, "items d"], cold: ColdItems | None, axis: Axis = None) -> Float[Array, "items d"]:
    """Replaces the rows of cold items: the direction is that of their neighbours' mean, the length that of a warm item.

    A mean of several vectors is shorter than they are, and what is short is never recommended: hence the mean length
    of the other items.

    Args:
      x: `[I, D]` item vectors.
      cold: from `find_cold_items`; None returns `x`.
      axis: mesh axis over which the items are shared: I counts this device's, `cold.neighbors` name rows of all.

    Returns:
      `[I, D]`.
    """
    if cold is None:
        return x
    directions = normalise_rows(jnp.einsum("ck,ckd->cd", cold.weights, gather_rows(x, axis)[cold.neighbors]))
    squares = jnp.sum(x.at[cold.items].set(0.0) ** 2, axis=1)
    lengths = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
    inherited = directions * (total(jnp.sum(lengths), axis) / cold.num_others)
    return x.at[cold.items].set(inherited, unique_indices=True, indices_are_sorted=True)


class _EntityProfiles:
    """`[I, 256]`: which entities an item is linked to, in either direction, rare ones more; zeros without a link."""

    dtype = np.dtype(np.float32)

    def __init__(self, dataset: Dataset) -> None:
        # Here and not above: scikit-learn takes over a second to import, and sets environment variables.
        from scipy import sparse
        from sklearn.random_projection import SparseRandomProjection

        head, _, tail = dataset.triples.T
        items, entities = np.concatenate([head, tail]), np.concatenate([tail, head])
        keep = items < dataset.num_items
        shape = (dataset.num_items, dataset.num_entities)
        links = sparse.csr_array((np.ones(int(keep.sum()), np.float32), (items[keep], entities[keep])), shape=shape)
        links.data[:] = 1.0
        linked = np.maximum(np.bincount(links.indices, minlength=dataset.num_entities), 1)
        links.data *= np.log1p(dataset.num_items / linked)[links.indices].astype(np.float32)
        width = min(_PROFILE_WIDTH, dataset.num_entities)
        random = SparseRandomProjection(width, dense_output=True, random_state=0)  # pyright: ignore[reportArgumentType]
        self.shape = (dataset.num_items, width)
        self._links, self._projection = links, random.fit(links)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self._projection.transform(self._links[rows]).astype(np.float32)
