"""Graphs on paper, the symmetric normalisation as dense matrices, and nearest neighbours one by one."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from slif_jax import graphs
from slif_jax.config import Config
from slif_jax.data import Dataset, Modality, validate

normalise = jax.jit(graphs.symmetric_normalise, static_argnames="num_nodes")
nearest = jax.jit(graphs.nearest_neighbors, static_argnums=1)
from_lists = jax.jit(graphs.neighbor_graph)


def make_dataset(train, *, num_users, num_items, num_entities=None, num_relations=0, triples=(), features=None):
    none = np.zeros((0, 2), np.int32)
    return Dataset(
        name="five",
        num_users=num_users,
        num_items=num_items,
        num_entities=num_entities or num_items,
        num_relations=num_relations,
        train=np.array(train, np.int32).reshape(-1, 2),
        valid=none,
        test=none,
        triples=np.array(triples, np.int32).reshape(-1, 3),
        features=features or {},
        user_ids=np.arange(num_users).astype(np.str_),
        item_ids=np.arange(num_items).astype(np.str_),
    )


def dense(graph, num_senders, weight=None):
    """The matrix [receivers, senders] of a graph."""
    matrix = np.zeros((int(graph.n_node[0]), num_senders), np.float64)
    weight = graph.edges.weight if weight is None else weight
    np.add.at(matrix, (np.asarray(graph.receivers), np.asarray(graph.senders)), np.asarray(weight))
    return matrix


def slow_normalise(matrix):
    """D^-1/2 A D^-1/2 where D are the sums of the rows, the weights that the nodes receive."""
    degree = matrix.sum(axis=1)
    scale = np.array([1 / np.sqrt(d) if d > 0 else 0.0 for d in degree])
    return scale[:, None] * matrix * scale[None, :]


def slow_nearest(vectors, k):
    lists = []
    for i, x in enumerate(np.asarray(vectors, np.float64)):
        cosines = []
        for j, y in enumerate(np.asarray(vectors, np.float64)):
            lengths = np.linalg.norm(x) * np.linalg.norm(y)
            if i != j and lengths > 0 and x @ y > 1e-9:
                cosines.append((-(x @ y) / lengths, j))
        lists.append([(j, -cosine) for cosine, j in sorted(cosines)[:k]])
    return lists


# symmetric_normalise


def test_five_nodes_on_paper():
    # 1 - 0 - 2 and 3 - 2, both ways; 4 is alone. Degrees 2, 1, 2, 1, 0.
    senders, receivers = np.array([1, 0, 2, 0, 3, 2], np.int32), np.array([0, 1, 0, 2, 2, 3], np.int32)
    got = normalise(senders, receivers, np.ones(6, np.float32), num_nodes=5)
    root = 1 / np.sqrt(2)
    np.testing.assert_allclose(got, [root, root, 0.5, 0.5, root, root], rtol=1e-6)


def test_normalisation_is_that_of_dense_matrices():
    rng = np.random.default_rng(0)
    senders, receivers = rng.integers(0, 6, (2, 20)).astype(np.int32)
    weight = (rng.random(20) * (rng.random(20) > 0.2)).astype(np.float32)
    matrix = np.zeros((7, 7))
    np.add.at(matrix, (receivers, senders), weight)
    got, out = normalise(senders, receivers, weight, num_nodes=7), np.zeros((7, 7))
    np.add.at(out, (receivers, senders), np.asarray(got))
    np.testing.assert_allclose(out, slow_normalise(matrix), rtol=1e-5, atol=1e-7)
    symmetric = slow_normalise(matrix + matrix.T)
    assert np.abs(np.linalg.eigvalsh(symmetric)).max() <= 1 + 1e-9  # why one normalises at all


def test_normalisation_does_not_depend_on_the_unit_or_on_names():
    rng = np.random.default_rng(1)
    senders, receivers = rng.integers(0, 6, (2, 20)).astype(np.int32)
    weight, new = rng.random(20).astype(np.float32), rng.permutation(7).astype(np.int32)
    want = normalise(senders, receivers, weight, num_nodes=7)
    np.testing.assert_allclose(normalise(senders, receivers, weight * 1000, num_nodes=7), want, rtol=1e-5)
    np.testing.assert_allclose(normalise(new[senders], new[receivers], weight, num_nodes=7), want, rtol=1e-5)


def test_a_sender_that_receives_nothing_sends_nothing():
    got = normalise(np.array([0, 1], np.int32), np.array([1, 1], np.int32), np.ones(2, np.float32), num_nodes=2)
    np.testing.assert_allclose(got, [0.0, 0.5])


# build_graphs


@pytest.fixture(scope="module")
def five():
    """Two users, three items: user 0 has items 0 and 1, user 1 has item 1; nobody has item 2."""
    return make_dataset([(0, 0), (0, 1), (1, 1)], num_users=2, num_items=3)


def test_interactions_of_five_nodes_on_paper(five):
    built = graphs.build_graphs(five, Config())
    root = 1 / np.sqrt(2)
    want = np.zeros((5, 5))
    want[0, 2], want[0, 3], want[1, 3] = root, 0.5, root  # users 0, 1; items at 2, 3, 4
    want += want.T
    np.testing.assert_allclose(dense(built.interactions, 5), want, rtol=1e-6)
    np.testing.assert_allclose(dense(built.user_items, 3), want[:2, 2:], rtol=1e-6)
    np.testing.assert_array_equal(built.interactions.receivers, [0, 0, 1, 2, 3, 3])
    assert built.knowledge is None
    assert built.features == {}


def test_interactions_are_the_normalised_bipartite_matrix():
    rng = np.random.default_rng(2)
    table = (rng.random((6, 8)) < 0.3).astype(np.float64)
    built: Any = graphs.build_graphs(make_dataset(np.argwhere(table), num_users=6, num_items=8), Config())
    whole = np.zeros((14, 14))
    whole[:6, 6:], whole[6:, :6] = table, table.T
    np.testing.assert_allclose(dense(built.interactions, 14), slow_normalise(whole), rtol=1e-5)
    np.testing.assert_allclose(dense(built.user_items, 8), slow_normalise(whole)[:6, 6:], rtol=1e-5)
    for graph in (built.interactions, built.user_items):
        assert (np.diff(graph.receivers) >= 0).all()


def test_no_interactions_make_graphs_without_edges():
    built: Any = graphs.build_graphs(make_dataset([], num_users=2, num_items=3), Config())
    assert built.interactions.senders.shape == built.user_items.senders.shape == (0,)
    assert int(built.interactions.n_node[0]) == 5


def test_knowledge_graph_on_paper():
    # Item 0 and entity 4 by relation 0, item 1 and entity 3 by relation 1, an edge from item 0 to itself; one repeat.
    triples = [(0, 0, 4), (0, 0, 4), (1, 1, 3), (0, 1, 0)]
    data = make_dataset([(0, 0)], num_users=1, num_items=3, num_entities=5, num_relations=2, triples=triples)
    graph: Any = graphs.knowledge_graph(data)
    edges = zip(graph.senders.tolist(), graph.receivers.tolist(), graph.edges.relation.tolist(), strict=True)
    assert sorted(edges) == sorted([(4, 0, 0), (0, 4, 2), (3, 1, 1), (1, 3, 3), (0, 0, 1), (0, 0, 3)])
    assert (np.diff(graph.receivers) >= 0).all()
    assert int(graph.n_node[0]) == 5


def test_switches(five):
    features = {"text": Modality(np.eye(3, dtype=np.float32), np.ones(3, np.bool_))}
    data = dataclasses.replace(five, num_relations=1, triples=np.array([[0, 0, 1]], np.int32), features=features)
    assert graphs.uses_knowledge(data, Config())
    assert not graphs.uses_knowledge(data, Config(knowledge_graph=False))
    assert not graphs.uses_knowledge(data, Config(side_information=False))
    assert not graphs.uses_knowledge(five, Config())
    assert graphs.used_modalities(data, Config()) == ("text",)
    assert graphs.used_modalities(data, Config(modalities=("text",))) == ("text",)
    assert graphs.used_modalities(data, Config(modalities=("none",))) == ()
    assert graphs.used_modalities(data, Config(side_information=False)) == ()
    with pytest.raises(ValueError, match="`modalities` names 'sound', but five has text"):
        graphs.used_modalities(data, Config(modalities=("sound",)))
    with pytest.raises(ValueError, match="names 'text', but five has no modality"):
        graphs.used_modalities(five, Config(modalities=("text",)))


# nearest_neighbors and neighbor_graph


@pytest.mark.parametrize("k", [3, 12])
def test_nearest_neighbours_are_found(k):
    vectors = np.random.default_rng(3).normal(size=(8, 3)).astype(np.float32)
    vectors[5] = 0
    ids, cosines = (np.asarray(x) for x in nearest(vectors, k))
    assert ids.shape == cosines.shape == (8, k)
    for i, want in enumerate(slow_nearest(vectors, k)):
        np.testing.assert_array_equal(ids[i], [j for j, _ in want] + [-1] * (k - len(want)))
        np.testing.assert_allclose(cosines[i], [c for _, c in want] + [0.0] * (k - len(want)), rtol=1e-4, atol=1e-6)
    assert (ids[5] == -1).all()
    assert not (ids == 5).any()


def test_neighbours_do_not_depend_on_lengths():
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(8, 3)).astype(np.float32)
    scaled = vectors * rng.uniform(0.01, 100, (8, 1)).astype(np.float32)
    np.testing.assert_array_equal(nearest(scaled, 3)[0], nearest(vectors, 3)[0])


def test_ties_go_to_the_lower_item_and_no_item_is_its_own():
    ids, cosines = nearest(np.ones((8, 3), np.float32), 3)
    np.testing.assert_array_equal(ids[:4], [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    np.testing.assert_allclose(cosines, np.ones((8, 3)), rtol=1e-6)


def test_opposite_and_orthogonal_items_are_no_neighbours():
    vectors = np.zeros((8, 3), np.float32)
    vectors[:4] = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 2, 0]]
    ids, _ = nearest(vectors, 3)
    np.testing.assert_array_equal(ids[:4], [[-1] * 3, [-1] * 3, [3, -1, -1], [2, -1, -1]])


def test_items_that_are_not_numbers_have_no_neighbours():
    vectors = np.random.default_rng(3).normal(size=(8, 3)).astype(np.float32)
    vectors[2] = np.nan
    ids, cosines = (np.asarray(x) for x in nearest(vectors, 3))
    assert (ids[2] == -1).all()
    assert not (ids == 2).any()
    assert np.isfinite(cosines).all()


def test_a_graph_of_lists_on_paper():
    ids = np.array([[1, -1], [0, 2], [-1, -1]], np.int32)
    graph = from_lists(ids, np.array([[4.0, 0.0], [8.0, 8.0], [0.0, 0.0]], np.float32))
    np.testing.assert_array_equal(graph.senders, [1, 0, 0, 2, 2, 2])  # a missing one is an edge to itself
    np.testing.assert_array_equal(graph.receivers, [0, 0, 1, 1, 2, 2])
    np.testing.assert_allclose(graph.edges.weight, [0.5, 0, 1.0, 0, 0, 0])  # 4 / sqrt(4 * 16), 8 / sqrt(16 * 4)


def test_feature_graphs_ignore_what_is_absent_and_borrow_neighbours():
    nan = np.nan
    text = np.array([[1, 0], [1, 0.1], [nan, nan], [0, 1], [0.1, 1], [nan, nan]], np.float32)
    image = np.array([[1, 0], [0, 1], [1, 0.2], [1, 0.3], [0, 1], [7, 7]], np.float16)
    features = {
        "text": Modality(text, np.array([1, 1, 0, 1, 1, 0], np.bool_)),
        "image": Modality(image, np.array([1, 1, 1, 1, 1, 0], np.bool_)),
    }
    data = validate(make_dataset([(0, 0)], num_users=1, num_items=6, features=features))
    built: dict[str, Any] = graphs.feature_graphs(data, ("image", "text"), 3)
    assert list(built) == ["image", "text"]
    for name, graph in built.items():
        present = features[name].present
        np.testing.assert_array_equal(graph.nodes.present, present)
        assert not np.asarray(graph.nodes.x)[~present].any()
        np.testing.assert_array_equal(np.asarray(graph.nodes.x)[present], features[name].values[present])
        weight = np.asarray(graph.edges.weight)
        assert np.isfinite(weight).all()
        assert present[np.asarray(graph.senders)[weight > 0]].all()
        assert graph.senders.shape == (18,)
    sent = dense(built["text"], 6)
    assert set(np.flatnonzero(sent[0])) == {1, 4}
    # Item 2 has no text; of its neighbours by image, 3, 0 and 1, all have text.
    assert set(np.flatnonzero(sent[2])) == {0, 1, 3}
    assert not sent[5].any()  # nothing at all is known of item 5
    cosines = np.zeros((6, 6))
    for i, row in enumerate(slow_nearest(np.nan_to_num(text), 3)):
        for j, cosine in row:
            cosines[i, j] = cosine
    for j, cosine in slow_nearest(np.where(features["image"].present[:, None], image, 0), 3)[2]:
        cosines[2, j] = cosine
    np.testing.assert_allclose(sent, slow_normalise(cosines), rtol=1e-4, atol=1e-6)


def test_features_that_stand_in_for_missing_ones():
    values = np.array([[1, 0], [3, 2], [9, 9]], np.float32)
    modality = Modality(values, np.array([True, True, False]))
    dataset = make_dataset([(0, 0)], num_users=1, num_items=3, features={"visual": modality})
    for policy, row, present in (
        ("neighbours", [0, 0], False),
        ("learned", [0, 0], False),
        ("zero", [0, 0], True),
        ("mean", [2, 1], True),
    ):
        found = graphs.item_features(graphs.feature_graphs(dataset, ("visual",), 2, missing=policy)["visual"])
        np.testing.assert_array_equal(found.x[:2], values[:2])
        np.testing.assert_array_equal(found.x[2], row)
        assert bool(found.present[2]) == present
    assert graphs.missing_features(dataset, Config()) == {"visual": 1}
