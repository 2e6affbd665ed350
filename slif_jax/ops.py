"""The sparse operations: one front door, several implementations.

Each operation takes `implementation`: None picks the fastest that works when the program is lowered; "reference" is
the definition in plain JAX; "xla" runs everywhere; "native" is the C++ library for CPUs. A name that cannot run raises
with the reason. `default_implementation(name)` is a context manager that sets the choice for everything traced in it.
"""

from slif_jax.kernels.dispatch import default_implementation, is_supported, why_not
from slif_jax.kernels.edge_attention import AttentionOutput, attention_weights, edge_attention
from slif_jax.kernels.layout import Edges, Layout, build_graph, fixed_degree_graph, pad_edges, transpose
from slif_jax.kernels.spmm import sddmm, spmm
from slif_jax.kernels.topk import Exclusions, TopK, topk

__all__ = [
    "AttentionOutput",
    "Edges",
    "Exclusions",
    "Layout",
    "TopK",
    "attention_weights",
    "build_graph",
    "default_implementation",
    "edge_attention",
    "fixed_degree_graph",
    "is_supported",
    "pad_edges",
    "sddmm",
    "spmm",
    "topk",
    "transpose",
    "why_not",
]
