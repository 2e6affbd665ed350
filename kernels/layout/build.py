"""Builds and pads graphs on the host, with NumPy. Here every index is checked, once."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from slif_jax.kernels import dispatch
from slif_jax.kernels.layout.ell import EllBlock, build_ell
from slif_jax.kernels.layout.types import Edges, Layout, edges_of, layout_of

_MAX_INT32 = 2**31 - 1


def _check_indices(name: str, values: ArrayLike, limit: int) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or array.size == 0):
        raise ValueError(f"`{name}` must be a vector of integers: got shape {array.shape}, dtype {array.dtype}.")
    if not array.size:
        return np.zeros(0, np.int64)  # of whatever type
    bad = np.flatnonzero((array < 0) | (array >= limit))
    if len(bad):
        raise ValueError(
            f"`{name}` must lie in [0, {limit}): got {array[bad[0]]} at position {bad[0]}"
            f" ({len(bad)} of {len(array)} are out of range). Is num_{name} right?"
        )
    return array.astype(np.int64)


def _check_edges(name: str, values: ArrayLike | None, num_edges: int) -> np.ndarray | None:
    if values is None:
        return None
    array = np.asarray(values)
    if array.shape != (num_edges,):
        raise ValueError(f"`{name}` must have one entry per edge: got shape {array.shape} for {num_edges} edges.")
    return array


def _check_weights(values: ArrayLike | None, num_edges: int) -> np.ndarray | None:
    array = _check_edges("weight", values, num_edges)
    if array is None:
        return None
    if not (jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "biu"):
        raise ValueError(f"`weight` must be real numbers: got dtype {array.dtype}.")
    with np.errstate(over="ignore", invalid="ignore"):
        weights = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(weights))
    if len(bad):
        raise ValueError(f"`weight` must be finite in float32: got {array[bad[0]]} at position {bad[0]}.")
    return weights


def _check_relations(values: ArrayLike | None, num_edges: int) -> np.ndarray | None:
    array = _check_edges("relation", values, num_edges)
    if array is None or not num_edges:
        return None if array is None else np.zeros(0, np.int32)
    if array.dtype.kind not in "iu":
        raise ValueError(f"`relation` must be integers: got dtype {array.dtype}.")
    bad = np.flatnonzero((array < 0) | (array > _MAX_INT32))
    if len(bad):
        rule = "must not be negative" if array[bad[0]] < 0 else "must fit in int32"
        raise ValueError(f"`relation` {rule}: got {array[bad[0]]} at position {bad[0]}.")
    return array.astype(np.int32)


def _compress(ids: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(ids, minlength=count))])


def _want_ell() -> bool:
    return dispatch.default_order("spmm")[0] == "xla" and dispatch.platform() == "cpu"


def build_graph(
    senders: ArrayLike,
    receivers: ArrayLike,
    weight: ArrayLike | None = None,
    relation: ArrayLike | None = None,
    *,
    num_senders: int,
    num_receivers: int,
    ell: bool | None = None,
) -> jraph.GraphsTuple:
    """Sorts an edge list by receiver and builds its layout.

    The graph may be rectangular: receivers index one table, senders another. Equal edges are kept.

    Args:
      senders: `[E]` integers in `[0, num_senders)`.
      receivers: `[E]` integers in `[0, num_receivers)`.
      weight: `[E]`, or None for a graph without weights (every operation then takes 1).
      relation: `[E]` integers, or None.
      num_senders: rows of the table that senders index. Static.
      num_receivers: rows of the table that receivers index. Static.
      ell: whether to add the slots of the XLA path. None adds them only where that path would be used.

    Returns:
      A `GraphsTuple` whose edges are ordered by (receiver, sender): `edges=Edges(weight, relation)`,
      `globals=Layout(...)`, `n_node=[num_receivers]`, `n_edge=[E]`, `nodes=None`.

    Raises:
      ValueError: if an index is out of range, a weight is no finite number, lengths differ or the graph has 2**31 edges
        or more.

    Example:
      >>> from slif_jax import ops
      >>> graph = ops.build_graph([2, 0], [1, 0], num_senders=3, num_receivers=2)
      >>> graph.receivers.tolist(), graph.senders.tolist()
      ([0, 1], [0, 2])
    """
    if num_senders < 0 or num_receivers < 0:
        raise ValueError(f"Table sizes must not be negative: got num_senders={num_senders}, {num_receivers=}.")
    from_ids = _check_indices("senders", senders, num_senders)
    to_ids = _check_indices("receivers", receivers, num_receivers)
    num_edges = len(from_ids)
    if len(to_ids) != num_edges:
        raise ValueError(f"`senders` and `receivers` must be equally long: got {num_edges} and {len(to_ids)}.")
    if max(num_edges, num_senders, num_receivers) >= 2**31 - 1:
        raise ValueError("A graph's edges and nodes are counted in int32: split it into parts of fewer than 2**31.")
    weights = _check_weights(weight, num_edges)
    relations = _check_relations(relation, num_edges)

    order = np.argsort(to_ids * max(num_senders, 1) + from_ids, kind="stable")
    from_ids, to_ids = from_ids[order], to_ids[order]
    indptr = _compress(to_ids, num_receivers)
    t_perm = np.argsort(from_ids, kind="stable")
    t_indptr = _compress(from_ids, num_senders)
    t_receivers = to_ids[t_perm]
    slots = t_slots = None
    if ell or (ell is None and _want_ell()):
        slots = build_ell(indptr, from_ids, np.arange(num_edges), num_senders=num_senders)
        t_slots = build_ell(t_indptr, t_receivers, t_perm, num_senders=num_receivers)
    layout: Any = Layout(
        indptr=_int32(indptr),
        t_indptr=_int32(t_indptr),
        t_receivers=_int32(t_receivers),
        t_perm=_int32(t_perm),
        ell=_blocks(slots),
        t_ell=_blocks(t_slots),
    )
    edges: Any = Edges(
        weight=None if weights is None else jnp.asarray(weights[order]),
        relation=None if relations is None else jnp.asarray(relations[order]),
    )
    return jraph.GraphsTuple(
        nodes=None,
        edges=edges,
        senders=_int32(from_ids),
        receivers=_int32(to_ids),
        globals=layout,
        n_node=_int32(np.array([num_receivers])),
        n_edge=_int32(np.array([num_edges])),
    )


def pad_edges(graph: jraph.GraphsTuple, num_edges: int) -> jraph.GraphsTuple:
    """Appends padding edges of weight 0, so that graphs of different sizes share one shape. On the host.

    Args:
      graph: a graph of `build_graph`.
      num_edges: edge slots to end with.

    Returns:
      The graph with `num_edges` slots. `n_edge` and `indptr` still tell the real ones.

    Raises:
      ValueError: if the graph already has more slots.
    """
    layout, edges = layout_of(graph), edges_of(graph)
    have = layout.t_perm.shape[0]
    extra = num_edges - have
    if extra < 0:
        raise ValueError(f"`num_edges` must be at least the graph's {have} edge slots: got {num_edges}.")

    def pad(values: Array | None, fill: int = 0) -> Array | None:
        return None if values is None else jnp.asarray(np.pad(np.asarray(values), (0, extra), constant_values=fill))

    def move_free(blocks: tuple[EllBlock, ...] | None) -> tuple[EllBlock, ...] | None:
        if blocks is None:
            return None
        return _blocks(tuple(b._replace(edges=np.where(b.edges == have, num_edges, b.edges)) for b in blocks))

    t_perm = np.concatenate([np.asarray(layout.t_perm), np.arange(have, num_edges)])
    return graph._replace(
        edges=Edges(pad(edges.weight), pad(edges.relation)),
        senders=pad(graph.senders),
        receivers=pad(graph.receivers, max(layout.indptr.shape[0] - 2, 0)),
        globals=layout._replace(
            t_receivers=pad(layout.t_receivers),
            t_perm=_int32(t_perm),
            ell=move_free(layout.ell),
            t_ell=move_free(layout.t_ell),
        ),
    )


def _int32(values: np.ndarray):
    return jnp.asarray(values.astype(np.int32))


def _blocks(blocks: tuple[EllBlock, ...] | None) -> tuple[EllBlock, ...] | None:
    if blocks is None:
        return None
    return tuple(EllBlock(*(_int32(np.asarray(part)) for part in block)) for block in blocks)
