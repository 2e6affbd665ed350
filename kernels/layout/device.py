"""Layouts made on the device, inside jit: fixed-degree graphs, graphs without a layout, transposes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int32

from slif_jax.kernels.layout.ell import EllBlock
from slif_jax.kernels.layout.types import Edges, Layout, edges_of, layout_of


class Structure(NamedTuple):
    """All index arrays that the kernels read: a graph less its weights and relations."""

    senders: Int32[Array, " E"]
    receivers: Int32[Array, " E"]
    indptr: Int32[Array, " R+1"]
    t_indptr: Int32[Array, " S+1"]
    t_receivers: Int32[Array, " E"]
    t_perm: Int32[Array, " E"]
    ell: tuple[EllBlock, ...] | None
    t_ell: tuple[EllBlock, ...] | None

    @property
    def num_receivers(self) -> int:
        return self.indptr.shape[0] - 1

    @property
    def num_senders(self) -> int:
        return self.t_indptr.shape[0] - 1

    @property
    def num_edges(self) -> int:
        return self.senders.shape[0]


def _compress(sorted_ids: Array, count: int) -> Array:
    """`[count + 1]` starts of each id in a sorted vector; ids of `count` and more are padding."""
    bounds = jnp.arange(count + 1, dtype=jnp.int32)
    return jnp.searchsorted(sorted_ids, bounds, side="left").astype(jnp.int32)


def _sender_order(senders: Array, num_senders: int) -> tuple[Array, Array]:
    places = jnp.arange(senders.shape[0], dtype=jnp.int32)
    sorted_ids, perm = jax.lax.sort((senders, places), num_keys=1, is_stable=True)
    return sorted_ids, perm


def structure_of(graph: jraph.GraphsTuple, *, num_receivers: int, num_senders: int) -> Structure:
    """The index arrays of a graph, computed on the spot when it carries no layout.

    Args:
      graph: edges sorted by receiver.
      num_receivers: rows of the receivers' table. Static.
      num_senders: rows of the senders' table. Static.

    Returns:
      The structure.

    Raises:
      ValueError: if the graph's layout was built for tables of another size.
    """
    layout, senders, receivers = graph.globals, _array(graph.senders), _array(graph.receivers)
    if isinstance(layout, Layout):
        built = (layout.indptr.shape[0] - 1, layout.t_indptr.shape[0] - 1)
        if built != (num_receivers, num_senders):
            raise ValueError(
                f"The graph was built for {built[0]} receivers and {built[1]} senders, but the arrays given have"
                f" {num_receivers} and {num_senders} rows. Was it built before padding, or is it transposed?"
            )
        return Structure(senders, receivers, *layout)
    num_real = jnp.sum(graph.n_edge).astype(jnp.int32)
    real = jnp.arange(senders.shape[0], dtype=jnp.int32) < num_real
    real_receivers = jnp.where(real, receivers, jnp.int32(num_receivers))
    sorted_ids, perm = _sender_order(jnp.where(real, senders, jnp.int32(num_senders)), num_senders)
    return Structure(
        senders=senders,
        receivers=receivers,
        indptr=_compress(real_receivers, num_receivers),
        t_indptr=_compress(sorted_ids, num_senders),
        t_receivers=jnp.take(receivers, perm, axis=0, mode="clip"),
        t_perm=perm,
        ell=None,
        t_ell=None,
    )


def fixed_degree_graph(
    neighbors: Int32[Array, "I k"], weights: Float[Array, "I k"], num_senders: int
) -> jraph.GraphsTuple:
    """A graph in which every receiver has k edges, such as a nearest-neighbour graph. Runs inside jit.

    Args:
      neighbors: `[I, k]` senders of each receiver; -1 stands for none and becomes an edge of weight 0 from the
        row of the same number.
      weights: `[I, k]`; may be traced and differentiated.
      num_senders: rows of the table that `neighbors` index. Static.

    Returns:
      A graph of I receivers and I * k edges with its layout, made by one sort.

    Raises:
      ValueError: if shapes do not fit, or, outside jit, a neighbour is no sender.
    """
    if neighbors.ndim != 2 or weights.shape != neighbors.shape:
        raise ValueError(f"`neighbors` and `weights` must be equal matrices: got {neighbors.shape}, {weights.shape}.")
    if neighbors.dtype.kind != "i":
        raise ValueError(f"`neighbors` must be signed integers, -1 for none: got dtype {neighbors.dtype}.")
    num_receivers, degree = neighbors.shape
    if num_receivers and degree and num_senders < 1:
        raise ValueError(f"`num_senders` must be positive for a graph with edges: got {num_senders}.")
    if num_receivers and degree and not isinstance(neighbors, Tracer):
        largest = int(np.asarray(neighbors).max())  # by NumPy: inside jit even a concrete array's maximum is traced
        if largest >= num_senders:
            raise ValueError(f"`neighbors` must be below `num_senders`={num_senders}: got {largest}.")
    rows = jnp.broadcast_to(jnp.arange(num_receivers, dtype=jnp.int32)[:, None], neighbors.shape)
    missing = neighbors < 0
    own = jnp.minimum(rows, jnp.int32(max(num_senders - 1, 0)))
    senders = jnp.where(missing, own, neighbors.astype(jnp.int32)).reshape(-1)
    receivers = rows.reshape(-1)
    weight = jnp.where(missing, jnp.zeros_like(weights), weights).reshape(-1)
    sorted_ids, perm = _sender_order(senders, num_senders)
    num_edges = num_receivers * degree
    places = jnp.arange(num_edges, dtype=jnp.int32).reshape(neighbors.shape)
    edges: Any = Edges(weight=weight)
    layout: Any = Layout(
        indptr=jnp.arange(num_receivers + 1, dtype=jnp.int32) * jnp.int32(degree),
        t_indptr=_compress(sorted_ids, num_senders),
        t_receivers=perm // jnp.int32(max(degree, 1)),
        t_perm=perm,
        ell=(EllBlock(rows[:, 0], senders.reshape(neighbors.shape), places),) if degree else (),
    )
    return jraph.GraphsTuple(
        nodes=None,
        edges=edges,
        senders=senders,
        receivers=receivers,
        globals=layout,
        n_node=jnp.full((1,), num_receivers, jnp.int32),
        n_edge=jnp.full((1,), num_edges, jnp.int32),
    )


def transpose(graph: jraph.GraphsTuple) -> jraph.GraphsTuple:
    """The graph with every edge turned round, again sorted by receiver. Runs inside jit.

    Args:
      graph: a graph that carries a layout.

    Returns:
      The transposed graph. Its edges stand in the sender order of `graph`: edge e is edge `t_perm[e]` there.

    Raises:
      ValueError: if the graph carries no layout.
    """
    layout, senders, edges = layout_of(graph), _array(graph.senders), edges_of(graph)
    perm = layout.t_perm
    places = jnp.arange(perm.shape[0], dtype=jnp.int32)
    inverse = jnp.zeros_like(perm).at[perm].set(places, unique_indices=True)
    weight, relation = edges.weight, edges.relation
    return graph._replace(
        edges=Edges(
            weight=None if weight is None else weight[perm],
            relation=None if relation is None else relation[perm],
        ),
        senders=layout.t_receivers,
        receivers=senders[perm],
        globals=Layout(
            indptr=layout.t_indptr,
            t_indptr=layout.indptr,
            t_receivers=senders,
            t_perm=inverse,
            ell=_reindex(layout.t_ell, inverse),
            t_ell=_reindex(layout.ell, inverse),
        ),
        n_node=jnp.full((1,), layout.t_indptr.shape[0] - 1, jnp.int32),
    )


def _reindex(blocks: tuple[EllBlock, ...] | None, inverse: Array) -> tuple[EllBlock, ...] | None:
    if blocks is None:
        return None
    free = inverse.shape[0]
    return tuple(b._replace(edges=inverse.at[b.edges].get(mode="fill", fill_value=free)) for b in blocks)


def _array(values: Any) -> Array:
    """jraph allows None for senders and receivers; here they are always given."""
    return values
