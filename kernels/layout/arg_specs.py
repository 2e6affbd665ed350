"""Graphs on which every implementation is tested: small, odd-sized, with the cases that go wrong."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from slif_jax.kernels.layout.build import build_graph, pad_edges

NUM_RELATIONS = 4


class GraphSpec(NamedTuple):
    """Sizes of a random graph; `columns` is the width of the tables that go with it."""

    num_receivers: int
    num_senders: int
    num_edges: int
    columns: int
    padding: int = 0
    ell: bool = False


ARG_SPECS = {
    "plain": GraphSpec(7, 9, 30, 16, ell=True),
    "empty_rows_padded": GraphSpec(30, 12, 20, 64, padding=5, ell=True),
    "no_edges": GraphSpec(5, 6, 0, 1, padding=3),
    "one_row": GraphSpec(1, 8, 9, 63),
    "one_sender": GraphSpec(9, 1, 9, 128),
    "wide": GraphSpec(11, 13, 60, 200, padding=2),
    "hub": GraphSpec(4, 200, 500, 1, ell=True),
}


def make_graph(spec: GraphSpec, seed: int = 0) -> Any:
    """A random graph of that size with relations and weights, a fifth of which are 0."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.1, 1.0, spec.num_edges) * (rng.random(spec.num_edges) > 0.2)
    graph = build_graph(
        rng.integers(0, spec.num_senders, spec.num_edges),
        rng.integers(0, spec.num_receivers, spec.num_edges),
        weight,
        rng.integers(0, NUM_RELATIONS, spec.num_edges),
        num_senders=spec.num_senders,
        num_receivers=spec.num_receivers,
        ell=spec.ell,
    )
    return pad_edges(graph, spec.num_edges + spec.padding)
