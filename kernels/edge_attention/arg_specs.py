"""Arguments on which every implementation of edge attention is tested."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slif_jax.kernels.layout.arg_specs import ARG_SPECS, NUM_RELATIONS, make_graph

__all__ = ["ARG_SPECS", "make_args"]


def make_args(name: str, dtype: Any, seed: int = 0) -> tuple[Any, jax.Array, jax.Array, jax.Array, jax.Array]:
    """A graph, queries, senders' rows, relation vectors and prior weights."""
    spec = ARG_SPECS[name]
    rng = np.random.default_rng(seed + 2)
    sizes = (spec.num_receivers, spec.num_senders, NUM_RELATIONS)
    query, x, vectors = (jnp.asarray(rng.normal(size=(rows, spec.columns)).astype(dtype)) for rows in sizes)
    graph = make_graph(spec, seed)
    return graph, query, x, vectors, graph.edges.weight
