"""Items near an item: by the cosine of their final vectors, or along the correlation graph."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jax import Array
from jaxtyping import Float

from slif_jax import ops
from slif_jax.data import Dataset
from slif_jax.graphs import edge_weights, num_receivers
from slif_jax.lists import Columns
from slif_jax.losses import normalise_rows

MEASURES = ("vectors", "correlation")


class Neighbors(NamedTuple):
    """The items nearest to each of a block of items."""

    items: np.ndarray
    """`[b]` item indices."""
    neighbors: np.ndarray
    """`[b, n]` item indices, nearest first; -1 where an item has fewer than n."""
    weights: np.ndarray
    """`[b, n]` cosines or edge weights; -inf there."""


def by_vectors(
    vectors: Float[Array, "items d"], items: np.ndarray, *, n: int, block: int = 2048
) -> Iterator[Neighbors]:
    """The n nearest others of each item by cosine, block by block.

    Args:
      vectors: `[I, D]` final vectors.
      items: `[m]` whose neighbours are sought.
      n: neighbours per item.
      block: items at a time.

    Yields:
      `Neighbors` with positive cosines; a zero vector is near to nothing.

    Raises:
      ValueError: if an item is not among the vectors, or `n` or `block` is below 1.
    """
    items = _checked(items, vectors.shape[0], n, block)
    unit, n = _unit(vectors), min(n, vectors.shape[0])
    block = min(block, max(len(items), 1))
    for start in range(0, len(items), block):
        rows = items[np.arange(start, start + block).clip(max=len(items) - 1)]  # equal shapes: compiled once
        found = _nearest(unit, rows.astype(np.int32), n=n)
        real = len(items[start : start + block])
        yield _positive(items[start : start + block], np.asarray(found.indices)[:real], np.asarray(found.values)[:real])


def by_correlation(
    correlation: jraph.GraphsTuple, items: np.ndarray, *, n: int, block: int = 2048
) -> Iterator[Neighbors]:
    """The n neighbours of each item whose edges in the correlation graph weigh most, block by block.

    Args:
      correlation: from `correlation.rebuild`; an item has k edges, so that n > k gives k.
      items: `[m]` whose neighbours are sought.
      n: neighbours per item.
      block: items at a time.

    Yields:
      `Neighbors`; equal weights stand in the order of the items.

    Raises:
      ValueError: if the graph has no edge: it was never rebuilt; or as `by_vectors`.
    """
    ids, weights = edge_lists(correlation)
    items = _checked(items, len(ids), n, block)
    if not (weights > 0).any():
        raise ValueError(
            "The correlation graph is empty: this model was trained without the self-loop, or its best epoch came "
            "before the first rebuild (--correlation_start). Ask --by=vectors."
        )
    for start in range(0, len(items), block):
        part = items[start : start + block]
        order = np.lexsort((ids[part], -weights[part]), axis=1)[:, :n]
        yield _positive(
            part, np.take_along_axis(ids[part], order, axis=1), np.take_along_axis(weights[part], order, axis=1)
        )


def _checked(items: np.ndarray, num_items: int, n: int, block: int) -> np.ndarray:
    items = np.asarray(items)
    if items.ndim != 1 or (items.dtype.kind not in "iu" and items.size) or np.any((items < 0) | (items >= num_items)):
        raise ValueError(f"`items` must be a vector of integers in [0, {num_items}).")
    if n < 1 or block < 1:
        raise ValueError(f"`n` and `block` must be at least 1: got {n} and {block}.")
    return items.astype(np.int64)


def edge_lists(correlation: jraph.GraphsTuple) -> tuple[np.ndarray, np.ndarray]:
    """The correlation graph as `[I, k]` senders and `[I, k]` weights, 0 where there is no edge, on the host."""
    shape = (num_receivers(correlation), -1)
    return np.asarray(correlation.senders).reshape(shape), np.asarray(edge_weights(correlation)).reshape(shape)


def columns(dataset: Dataset, by: str) -> Columns:
    """How neighbours are named in a file; see `lists.write`.

    Args:
      dataset: for ids and titles.
      by: one of `MEASURES`.
    """
    score = "cosine" if by == "vectors" else "weight"
    return Columns("item", dataset.item_ids, "neighbor", dataset.item_ids, score, dataset.item_titles)


def _positive(items: np.ndarray, neighbors: np.ndarray, weights: np.ndarray) -> Neighbors:
    some = weights > 0
    return Neighbors(items, np.where(some, neighbors, -1), np.where(some, weights, -np.inf).astype(np.float32))


@jax.jit
def _unit(vectors: Array) -> Array:
    return normalise_rows(vectors)


@functools.partial(jax.jit, static_argnames="n")
def _nearest(unit: Array, rows: Array, *, n: int) -> ops.TopK:
    bounds = jnp.arange(rows.shape[0] + 1, dtype=jnp.int32)
    return ops.topk(unit[rows], unit, n, exclude=ops.Exclusions(bounds, rows))
