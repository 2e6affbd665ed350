"""Items without training interactions: what they inherit from the items that their features and triples are like."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from slif_jax import ops
from slif_jax.collectives import Axis, gather_rows, total
from slif_jax.data import Dataset, filled
from slif_jax.losses import normalise_rows

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
    dataset: Dataset, modalities: tuple[str, ...], *, knowledge: bool, num_neighbors: int
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

    Returns:
      `ColdItems` on the default device; an item that is like no warm item is not among them. None without any.
    """
    is_cold = np.bincount(dataset.train[:, 1], minlength=dataset.num_items) == 0
    if not is_cold.any() or is_cold.all() or not (modalities or knowledge):
        return None
    cold, warm = np.flatnonzero(is_cold), np.flatnonzero(~is_cold)
    found = jax.jit(ops.topk, static_argnums=2)(*_profiles(dataset, modalities, knowledge, (cold, warm)), num_neighbors)
    weights = np.maximum(np.asarray(found.values), 0.0)
    sums = weights.sum(axis=1)
    some = sums > 0
    if not some.any():
        return None
    neighbors = warm[np.maximum(np.asarray(found.indices), 0)][some]
    return ColdItems(
        jnp.asarray(cold[some].astype(np.int32)),
        jnp.asarray(neighbors.astype(np.int32)),
        jnp.asarray(weights[some] / sums[some, None]),
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


def _profiles(
    dataset: Dataset, modalities: tuple[str, ...], knowledge: bool, groups: tuple[np.ndarray, ...]
) -> list[np.ndarray]:
    """For each group of items, all sources side by side, each at unit length."""
    widths = [dataset.features[name].values.shape[1] for name in modalities]
    if knowledge:
        widths.append(min(_PROFILE_WIDTH, dataset.num_entities))
    bounds = np.cumsum([0, *widths])
    profiles = [np.empty((len(items), bounds[-1]), np.float32) for items in groups]
    for at in range(len(bounds) - 1):  # raw features are large: one after the other
        known = at < len(modalities)
        source = filled(dataset.features[modalities[at]]) if known else _entity_profiles(dataset)
        norms = np.linalg.norm(source, axis=1, keepdims=True)
        np.divide(source, norms, out=source, where=norms > 0)
        for profile, items in zip(profiles, groups, strict=True):
            profile[:, bounds[at] : bounds[at + 1]] = source[items]
    return profiles


def _entity_profiles(dataset: Dataset) -> np.ndarray:
    """`[I, 256]`: which entities an item is linked to, in either direction, rare ones more; zeros without a link."""
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
    projection = SparseRandomProjection(width, dense_output=True, random_state=0)  # pyright: ignore[reportArgumentType]
    return projection.fit_transform(links).astype(np.float32)
