"""The correlation graph: rebuilt as defined, always of one shape, and compared edge by edge."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import correlation, graphs
from slif_jax.config import Config
from slif_jax.data.synthetic import synthetic

NUM_ITEMS, K = 7, 3

make_graph = jax.jit(graphs.neighbor_graph)


def draw(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(NUM_ITEMS, 4)), jnp.float32)


def rebuild(vectors):
    return correlation.rebuild(vectors, num_neighbors=K)


def kept(before, after):
    return float(correlation.share_kept(before, after, num_neighbors=K))


def from_lists(lists):
    """A correlation graph with these neighbours."""
    ids = np.array([row + [-1] * (K - len(row)) for row in lists], np.int32)
    return make_graph(ids, (ids >= 0).astype(np.float32))


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def slow_rebuild(vectors, *, mutual=False):
    """The dense matrix of S."""
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1.0)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    matrix = np.zeros_like(cosines)
    for i, row in enumerate(cosines):
        for j in np.argsort(-row)[:K]:
            matrix[i, j] = max(row[j], 0)
    if mutual:
        matrix *= matrix.T > 0
    degree = matrix.sum(axis=1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    return scale[:, None] * matrix * scale[None, :]


def dense(graph):
    matrix = np.zeros((NUM_ITEMS, NUM_ITEMS))
    np.add.at(matrix, (np.asarray(graph.receivers), np.asarray(graph.senders)), np.asarray(graph.edges.weight))
    return matrix


def test_rebuild_is_the_normalised_graph_of_the_nearest_items():
    for seed in range(3):
        np.testing.assert_allclose(dense(rebuild(draw(seed))), slow_rebuild(draw(seed)), rtol=1e-4, atol=1e-6)


def test_mutual_neighbours_alone():
    fewer = 0
    for seed in range(3):
        got = dense(correlation.rebuild(draw(seed), num_neighbors=K, mutual=True))
        np.testing.assert_allclose(got, slow_rebuild(draw(seed), mutual=True), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(got, got.T, rtol=1e-5)
        assert got.any()
        fewer += np.count_nonzero(dense(rebuild(draw(seed)))) - np.count_nonzero(got)
    assert fewer > 0


def test_rebuild_follows_the_items():
    order = np.random.default_rng(9).permutation(NUM_ITEMS)
    got = dense(rebuild(draw(0)[order]))
    np.testing.assert_allclose(got, dense(rebuild(draw(0)))[np.ix_(order, order)], rtol=1e-4, atol=1e-6)


def test_edges_never_lead_an_item_to_itself_and_are_not_negative():
    graph = rebuild(draw(1))
    weight = np.asarray(graph.edges.weight)
    assert (weight >= 0).all()
    assert (np.asarray(graph.senders) != np.asarray(graph.receivers))[weight > 0].all()
    assert (weight > 0).any()


def test_shapes_do_not_depend_on_the_vectors():
    empty = correlation.empty(NUM_ITEMS, K)
    assert shapes(empty) == shapes(rebuild(draw(0))) == shapes(rebuild(jnp.zeros((NUM_ITEMS, 4))))
    assert not np.asarray(empty.edges.weight).any()
    assert empty.senders.shape == (NUM_ITEMS * K,)


def test_equal_items_are_all_each_others_neighbours_and_zero_ones_have_none():
    same = rebuild(jnp.ones((NUM_ITEMS, 4)))
    np.testing.assert_allclose(same.edges.weight, np.full(NUM_ITEMS * K, 1 / K), rtol=1e-5)
    none = correlation.neighbors(rebuild(jnp.zeros((NUM_ITEMS, 4))), K)
    np.testing.assert_array_equal(none, np.full((NUM_ITEMS, K), -1))


def test_more_neighbours_than_items():
    lists = correlation.neighbors(correlation.rebuild(jnp.ones((2, 4)), num_neighbors=5), 5)
    np.testing.assert_array_equal(lists, [[1, -1, -1, -1, -1], [0, -1, -1, -1, -1]])


def test_neighbours_come_back_as_lists():
    lists = [[1, 2], [0], [], [4, 5, 6], [3], [3], [3]]
    got = correlation.neighbors(from_lists(lists), K)
    # Item 2 receives nothing, so its edge to item 0 has no weight.
    np.testing.assert_array_equal(got[:4], [[1, -1, -1], [0, -1, -1], [-1, -1, -1], [4, 5, 6]])


def test_share_of_edges_kept_on_paper():
    before = from_lists([[1, 2], [0, 2], [0, 1], [4], [3], [], []])
    after = from_lists([[2, 1], [0], [0, 3], [2], [], [6], [5]])
    # After: 0 <- 2, 1; 1 <- 0; 2 <- 0, 3; 3 <- 2; 5 <- 6; 6 <- 5. Of these eight, four were there.
    assert kept(before, after) == pytest.approx(4 / 8)


def test_share_kept_of_the_same_another_and_an_empty_graph():
    graph, other, empty = rebuild(draw(0)), rebuild(draw(1)), correlation.empty(NUM_ITEMS, K)
    assert kept(graph, graph) == 1.0
    assert kept(empty, graph) == kept(graph, empty) == kept(empty, empty) == 0.0
    old, new = dense(graph) > 0, dense(other) > 0
    assert kept(graph, other) == pytest.approx((old & new).sum() / new.sum())


def test_vectors_fed_back_are_a_moving_average():
    update, epochs = correlation.moving_average, [np.asarray(draw(seed)) for seed in range(3)]
    z = jnp.full((NUM_ITEMS, 4), jnp.nan)  # holds nothing yet
    for epoch, new in enumerate(epochs):
        z = update(z, jnp.asarray(new), momentum=0.75, first=jnp.asarray(epoch == 0))
    want = 0.75 * (0.75 * epochs[0] + 0.25 * epochs[1]) + 0.25 * epochs[2]
    np.testing.assert_allclose(z, want, rtol=1e-5, atol=1e-6)
    without = update(draw(0), draw(1), momentum=0.0, first=jnp.asarray(False))
    np.testing.assert_array_equal(without, epochs[1])


def test_vectors_in_scores_have_the_correlations_of_scores_as_cosines():
    rng = np.random.default_rng(3)
    users, items = rng.normal(1.0, 2.0, (50, 6)), rng.normal(size=(9, 6))
    expected = np.corrcoef((users @ items.T).T)
    rows = np.concatenate([np.zeros((4, 6)), users])  # as the padding of a mesh
    covariance = correlation.score_covariance(
        jnp.asarray(rows, jnp.float32), jnp.asarray(np.concatenate([items, np.zeros((7, 6))]), jnp.float32)
    )
    variance = np.var(users @ items.T, axis=0).mean()
    np.testing.assert_allclose(covariance, np.cov(users.T, bias=True) / variance, rtol=1e-4, atol=1e-6)
    vectors = np.asarray(correlation.in_scores(jnp.asarray(items, jnp.float32), covariance), np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(unit @ unit.T, expected, atol=1e-4)
    assert np.abs(expected - np.corrcoef(items)).max() > 0.1  # which are not those of the vectors


def test_columns_of_any_size_count_by_what_they_do_to_scores():
    rng = np.random.default_rng(4)
    users, items = rng.normal(size=(200, 5)), rng.normal(size=(9, 5))
    size = np.array([1e-8, 1e-4, 1.0, 1e3, 1e6])
    expected = np.corrcoef((users @ items.T).T)
    sized = jnp.asarray(items / size, jnp.float32)
    covariance = correlation.score_covariance(jnp.asarray(users * size, jnp.float32), sized)
    vectors = np.asarray(correlation.in_scores(sized, covariance), np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(unit @ unit.T, expected, atol=1e-3)


@pytest.mark.parametrize("num_users", [2, 12, 5000])
def test_more_columns_than_users_and_columns_alike_are_compared_all_the_same(num_users: int):
    rng = np.random.default_rng(num_users)
    users, items = rng.normal(size=(num_users, 300)), rng.normal(size=(20, 300))
    if num_users == 5000:  # all columns nearly the same
        users, items = users[:, :1] + 1e-6 * users, np.abs(items)
    columns = jnp.asarray(items, jnp.float32)
    covariance = correlation.score_covariance(jnp.asarray(users * 1e-15, jnp.float32), columns)
    vectors = correlation.in_scores(columns, covariance)
    expected = np.corrcoef(items @ users.T)
    unit = np.asarray(vectors, np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(unit @ unit.T, expected, atol=2e-2)
    found = correlation.neighbors(correlation.rebuild(vectors, num_neighbors=3), 3)
    assert (np.asarray(found) >= 0).mean() > 0.9


def test_scores_with_columns_that_say_nothing_stay_finite():
    users = jnp.zeros((5, 4)).at[:, 0].set(jnp.arange(5.0))  # one column of four differs between users
    vectors = correlation.in_scores(jnp.eye(3, 4), correlation.score_covariance(users, jnp.eye(3, 4)))
    assert np.isfinite(vectors).all()
    assert float(jnp.abs(vectors[0]).max()) > 100 * float(jnp.abs(vectors[1:]).max())
    for nobody in (jnp.ones((5, 4)), jnp.zeros((5, 4))):
        np.testing.assert_array_equal(
            correlation.in_scores(jnp.eye(4), correlation.score_covariance(nobody, jnp.eye(4))), 0.0
        )


def test_warm_up_is_empty_or_the_nearest_by_all_features():
    data = synthetic(
        num_users=5, num_items=NUM_ITEMS, num_clusters=2, mean_degree=3.0, num_relations=0, modalities={"a": 2, "b": 2}
    )
    config = Config(feature_neighbors=K)
    built = graphs.build_graphs(data, config)
    empty = correlation.empty(NUM_ITEMS, K)
    got = correlation.warm_up(built, NUM_ITEMS, kind="features", num_neighbors=K)
    assert shapes(got) == shapes(empty)
    sides = []
    for modality in data.features.values():
        x = np.where(modality.present[:, None], modality.values, 0).astype(np.float64)
        length = np.linalg.norm(x, axis=1, keepdims=True)
        sides.append(x / np.where(length > 0, length, 1))
    joined = np.concatenate(sides, axis=1)
    joined[np.bincount(data.train[:, 1], minlength=NUM_ITEMS) == 0] = 0.0
    assert 2 < np.count_nonzero(joined.any(axis=1)) < NUM_ITEMS
    np.testing.assert_allclose(dense(got), slow_rebuild(joined), rtol=1e-4, atol=1e-6)
    both: Any = correlation.warm_up(built, NUM_ITEMS, kind="features", num_neighbors=K, mutual=True)
    np.testing.assert_allclose(dense(both), slow_rebuild(joined, mutual=True), rtol=1e-4, atol=1e-6)
    for graph, kind in ((built, "empty"), (built._replace(features={}), "features")):
        cold: Any = correlation.warm_up(graph, NUM_ITEMS, kind=kind, num_neighbors=K)
        assert not np.asarray(cold.edges.weight).any()


def test_a_recall_target_is_for_tpus_only():
    vectors = draw(2)
    approximate = correlation.rebuild(vectors, num_neighbors=K, recall_target=0.9)
    np.testing.assert_array_equal(dense(approximate), dense(rebuild(vectors)))
    program = jax.jit(lambda v, recall: correlation.rebuild(v, num_neighbors=K, recall_target=recall), static_argnums=1)
    shape = jax.ShapeDtypeStruct(vectors.shape, jnp.float32)

    def searches_approximately(recall):
        text = jax.export.export(program, platforms=["tpu"])(shape, recall).mlir_module()
        return "ApproxTopK" in text or "PartialReduce" in text

    assert searches_approximately(0.9)
    assert not searches_approximately(None)
