"""What a graph carries besides senders and receivers."""

from typing import NamedTuple

import jraph
from jaxtyping import Array, Float, Int32

from slif_jax.kernels.layout.ell import EllBlock


class Edges(NamedTuple):
    """Per-edge data, in receiver order. Stands in `GraphsTuple.edges`."""

    weight: Float[Array, " E"] | None = None
    relation: Int32[Array, " E"] | None = None


class Layout(NamedTuple):
    """The two compressed orders of one edge list. Stands in `GraphsTuple.globals`.

    R receivers, S senders, E edge slots. Slots at and beyond `indptr[-1]` are padding; no operation reads them.

    Attributes:
      indptr: edges `indptr[r]` to `indptr[r + 1]` end at receiver r.
      t_indptr: places `t_indptr[s]` to `t_indptr[s + 1]` of the sender order start at sender s.
      t_receivers: receivers, in sender order.
      t_perm: where each edge of the sender order stands in the receiver order.
      ell: degree-bucketed slots for the XLA path, or None.
      t_ell: the same of the transposed graph, or None.
    """

    indptr: Int32[Array, " R+1"]
    t_indptr: Int32[Array, " S+1"]
    t_receivers: Int32[Array, " E"]
    t_perm: Int32[Array, " E"]
    ell: tuple[EllBlock, ...] | None = None
    t_ell: tuple[EllBlock, ...] | None = None


def edges_of(graph: jraph.GraphsTuple) -> Edges:
    """The graph's weights and relations; both None where it carries none."""
    return graph.edges if isinstance(graph.edges, Edges) else Edges()


def layout_of(graph: jraph.GraphsTuple) -> Layout:
    """The graph's layout.

    Raises:
      ValueError: if it carries none.
    """
    if not isinstance(graph.globals, Layout):
        raise ValueError("`graph` must carry a Layout in `globals`: build it with `build_graph`.")
    return graph.globals
