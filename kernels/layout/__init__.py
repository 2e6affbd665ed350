"""Graphs as data: an edge list sorted by receiver, with both compressed orders beside it."""

from slif_jax.kernels.layout.build import build_graph, pad_edges
from slif_jax.kernels.layout.device import Structure, fixed_degree_graph, structure_of, transpose
from slif_jax.kernels.layout.ell import EllBlock, build_ell
from slif_jax.kernels.layout.types import Edges, Layout, edges_of, layout_of

__all__ = [
    "Edges",
    "EllBlock",
    "Layout",
    "Structure",
    "build_ell",
    "build_graph",
    "edges_of",
    "fixed_degree_graph",
    "layout_of",
    "pad_edges",
    "structure_of",
    "transpose",
]
