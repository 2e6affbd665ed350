"""Nearest items against dense cosines, and along a correlation graph written by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import correlation, similar
from slif_jax.graphs import edge_weights, neighbor_graph

NUM_ITEMS = 30


@pytest.fixture(scope="module")
def vectors():
    """The last one is zero."""
    x = np.random.default_rng(3).normal(size=(NUM_ITEMS, 4)).astype(np.float32)
    x[-1] = 0
    return x


def dense(vectors, item, n):
    """Positive cosines with the others, largest first."""
    norms = np.linalg.norm(vectors, axis=1)
    cosines = vectors @ vectors[item] / np.where(norms * norms[item] > 0, norms * norms[item], 1)
    cosines[item] = -1
    order = [other for other in np.lexsort((np.arange(NUM_ITEMS), -cosines)) if cosines[other] > 0][:n]
    return order, cosines[order]


@pytest.mark.parametrize("n", [3, NUM_ITEMS])
def test_nearest_by_cosine(vectors, n):
    items = np.array([29, 4, 17, 0])
    parts = list(similar.by_vectors(jnp.asarray(vectors), items, n=n, block=3))
    assert [len(part.items) for part in parts] == [3, 1]
    for item, neighbors, weights in zip(*map(np.concatenate, zip(*parts, strict=True)), strict=True):
        want, cosines = dense(vectors, item, n)
        np.testing.assert_array_equal(neighbors[: len(want)], want)
        np.testing.assert_allclose(weights[: len(want)], cosines, rtol=1e-5)
        assert (neighbors[len(want) :] == -1).all()
        assert np.isneginf(weights[len(want) :]).all()
        assert item != 29 or not want  # a zero vector is near to nothing


def test_nearest_along_the_correlation_graph():
    ids = jnp.array([[3, 1, 2], [2, 0, -1], [-1, -1, -1], [0, 1, 2]], jnp.int32)
    weights = jnp.array([[0.2, 0.9, 0.2], [0.1, 0.3, 0.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    graph = neighbor_graph(ids, jnp.where(ids >= 0, weights, 0.0))
    raw = np.asarray(edge_weights(graph)).reshape(4, 3)  # normalised; item 2 receives nothing and gives nothing
    (found,) = similar.by_correlation(graph, np.array([3, 0, 2, 1]), n=2)
    for item, neighbors, got in zip(*found, strict=True):
        pairs = sorted((-raw[item, j], int(ids[item, j])) for j in range(3) if raw[item, j] > 0)[:2]
        assert [int(other) for other in neighbors if other >= 0] == [other for _, other in pairs]
        np.testing.assert_allclose([weight for weight in got if weight > 0], [-weight for weight, _ in pairs])
    (all_of_them,) = similar.by_correlation(graph, np.arange(4), n=99)
    assert all_of_them.neighbors.shape == (4, 3)


def test_the_graph_of_a_rebuild_gives_the_nearest_by_cosine(vectors):
    graph = correlation.rebuild(jnp.asarray(vectors), num_neighbors=5)
    along = np.concatenate([part.neighbors for part in similar.by_correlation(graph, np.arange(NUM_ITEMS), n=5)])
    near = np.concatenate([part.neighbors for part in similar.by_vectors(jnp.asarray(vectors), np.arange(30), n=5)])
    np.testing.assert_array_equal(np.sort(along), np.sort(near))


def test_a_graph_without_edges_says_why():
    with pytest.raises(ValueError, match=r"^The correlation graph is empty: .* Ask --by=vectors\.$"):
        next(similar.by_correlation(correlation.empty(NUM_ITEMS, 3), np.arange(3), n=2))


def test_no_items_give_no_lists(vectors):
    none = np.zeros(0, np.int64)
    assert list(similar.by_vectors(jnp.asarray(vectors), none, n=2)) == []
    graph = correlation.rebuild(jnp.asarray(vectors), num_neighbors=2)
    assert list(similar.by_correlation(graph, none, n=2)) == []
