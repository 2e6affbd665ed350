"""Graphs as data: built on the host, padded, transposed, and made inside jit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from battery import assert_close

from slif_jax import ops
from slif_jax.kernels.layout import build_ell, structure_of
from slif_jax.kernels.layout.arg_specs import ARG_SPECS, make_graph


def _edges(graph):
    """The edges as a sorted list of tuples, padding left out."""
    count = int(graph.globals.indptr[-1])
    columns = [graph.senders, graph.receivers, graph.edges.weight, graph.edges.relation]
    return sorted(zip(*(np.asarray(column)[:count].tolist() for column in columns if column is not None), strict=True))


def test_by_hand():
    graph: Any = ops.build_graph([2, 0, 1], [1, 1, 0], [0.5, 0.25, 2.0], [7, 8, 9], num_senders=3, num_receivers=3)
    np.testing.assert_array_equal(graph.receivers, [0, 1, 1])
    np.testing.assert_array_equal(graph.senders, [1, 0, 2])
    np.testing.assert_array_equal(graph.edges.weight, [2.0, 0.25, 0.5])
    np.testing.assert_array_equal(graph.edges.relation, [9, 8, 7])
    np.testing.assert_array_equal(graph.globals.indptr, [0, 1, 3, 3])
    np.testing.assert_array_equal(graph.globals.t_indptr, [0, 1, 2, 3])
    np.testing.assert_array_equal(graph.globals.t_receivers, [1, 0, 1])
    np.testing.assert_array_equal(graph.globals.t_perm, [1, 0, 2])
    np.testing.assert_array_equal(graph.n_node, [3])
    np.testing.assert_array_equal(graph.n_edge, [3])
    assert all(leaf.dtype in (jnp.int32, jnp.float32) for leaf in jax.tree.leaves(graph))


@pytest.mark.parametrize("spec", ARG_SPECS)
def test_layout_is_consistent(spec):
    graph = make_graph(ARG_SPECS[spec])
    layout = graph.globals
    count = int(layout.indptr[-1])
    assert count == ARG_SPECS[spec].num_edges == int(graph.n_edge[0])
    np.testing.assert_array_equal(
        np.diff(layout.indptr), np.bincount(graph.receivers[:count], minlength=len(layout.indptr) - 1)
    )
    np.testing.assert_array_equal(graph.receivers[layout.t_perm[:count]], layout.t_receivers[:count])
    assert np.all(np.diff(graph.senders[layout.t_perm[:count]]) >= 0)
    np.testing.assert_array_equal(np.sort(layout.t_perm), np.arange(len(graph.senders)))
    bare = structure_of(
        graph._replace(globals=None), num_receivers=len(layout.indptr) - 1, num_senders=len(layout.t_indptr) - 1
    )
    for name in ("indptr", "t_indptr"):
        np.testing.assert_array_equal(getattr(bare, name), getattr(layout, name))
    np.testing.assert_array_equal(bare.t_perm[:count], layout.t_perm[:count])
    np.testing.assert_array_equal(bare.t_receivers[:count], layout.t_receivers[:count])


@pytest.mark.parametrize("spec", ["plain", "empty_rows_padded", "no_edges"])
def test_transpose(spec):
    graph = make_graph(ARG_SPECS[spec])
    turned: Any = jax.jit(ops.transpose)(graph)
    assert _edges(turned) == sorted((r, s, *rest) for s, r, *rest in _edges(graph))
    assert np.all(np.diff(turned.receivers[: int(turned.globals.indptr[-1])]) >= 0)
    assert _edges(ops.transpose(turned)) == _edges(graph)
    y = jnp.asarray(np.random.default_rng(0).normal(size=(int(graph.n_node[0]), 8)), jnp.float32)
    want = ops.spmm(
        turned._replace(globals=turned.globals._replace(ell=None, t_ell=None)), y, implementation="reference"
    )
    for implementation in ("xla", None):
        assert_close(ops.spmm(turned, y, implementation=implementation), want)


def test_pad_edges_changes_no_result():
    graph = make_graph(ARG_SPECS["hub"])
    padded: Any = ops.pad_edges(graph, 513)
    assert padded.senders.shape == padded.globals.t_perm.shape == (513,)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(200, 4)), jnp.float32)
    for implementation in ("reference", "xla", None):
        assert_close(
            ops.spmm(padded, x, implementation=implementation), ops.spmm(graph, x, implementation=implementation)
        )
    with pytest.raises(ValueError, match="at least the graph's 500 edge slots: got 499"):
        ops.pad_edges(graph, 499)


def test_slots_hold_every_edge_once():
    rng = np.random.default_rng(0)
    degree = np.array([0, 1, 2, 3, 64, 65, 200, 0, 5])
    indptr = np.concatenate([[0], np.cumsum(degree)])
    count = int(indptr[-1])
    senders = rng.integers(0, 30, count)
    blocks = build_ell(indptr, senders, np.arange(count), num_senders=30)
    seen = {}
    for rows, ids, edges in blocks:
        assert ids.shape[1] <= 64
        for row, row_ids, row_edges in zip(rows, ids, edges, strict=True):
            for s, e in zip(row_ids, row_edges, strict=True):
                assert (s == 30) == (e == count)
                if e < count:
                    assert e not in seen
                    seen[e] = (row, s)
    assert seen == {e: (int(np.searchsorted(indptr, e, side="right")) - 1, senders[e]) for e in range(count)}


def test_fixed_degree_graph():
    neighbors = jnp.asarray([[1, 2], [0, -1], [-1, -1], [4, 3]], jnp.int32)
    weights = jnp.arange(1.0, 9.0).reshape(4, 2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)

    @jax.jit
    def total(neighbors, weights, x):
        graph: Any = ops.fixed_degree_graph(neighbors, weights, 5)
        return ops.spmm(graph, x), graph

    out, graph = total(neighbors, weights, x)
    want = np.stack([x[1] + 2 * x[2], 3 * x[0], 0 * x[0], 7 * x[4] + 8 * x[3]])
    np.testing.assert_allclose(out, want, rtol=1e-5)
    np.testing.assert_array_equal(graph.edges.weight, [1, 2, 3, 0, 0, 0, 7, 8])
    np.testing.assert_array_equal(graph.senders, [1, 2, 0, 1, 2, 2, 4, 3])
    layout: Any = ops.build_graph(graph.senders, graph.receivers, num_senders=5, num_receivers=4).globals
    np.testing.assert_array_equal(graph.globals.indptr, layout.indptr)
    np.testing.assert_array_equal(graph.globals.t_indptr, layout.t_indptr)
    slope = jax.grad(lambda w, x: jnp.sum(total(neighbors, w, x)[0] ** 2), argnums=(0, 1))
    dw, dx = slope(weights, x)
    assert np.all((np.asarray(dw) == 0) == (np.asarray(neighbors) < 0))
    assert np.isfinite(dx).all()


@pytest.mark.parametrize(
    ("senders", "receivers", "message"),
    [
        ([0, 5], [0, 1], r"`senders` must lie in \[0, 3\): got 5 at position 1 \(1 of 2 are out of range\)"),
        ([0, 1, 2], [0, -1, -2], r"`receivers` must lie in \[0, 4\): got -1 at position 1 \(2 of 3"),
        ([0, 1], [0], "must be equally long: got 2 and 1"),
        ([0.5], [0], "`senders` must be a vector of integers"),
        ([[0]], [0], "`senders` must be a vector of integers"),
    ],
)
def test_wrong_indices_are_named(senders, receivers, message):
    with pytest.raises(ValueError, match=message):
        ops.build_graph(senders, receivers, num_senders=3, num_receivers=4)


def test_wrong_edge_data_is_named():
    with pytest.raises(ValueError, match="`weight` must have one entry per edge"):
        ops.build_graph([0], [0], [1.0, 2.0], num_senders=1, num_receivers=1)
    with pytest.raises(ValueError, match="`relation` must not be negative: got -1 at position 0"):
        ops.build_graph([0], [0], None, [-1], num_senders=1, num_receivers=1)
    graph: Any = ops.build_graph([0], [0], num_senders=1, num_receivers=1)._replace(globals=None)
    with pytest.raises(ValueError, match="must carry a Layout"):
        ops.transpose(graph)
