"""Cold items: whom they inherit from, and that only that counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import correlation
from slif_jax.cold_items import ColdItems, find_cold_items, inherit
from slif_jax.config import Config
from slif_jax.data import Dataset, Modality
from slif_jax.data.synthetic import synthetic
from slif_jax.graphs import build_graphs
from slif_jax.model import make_model
from slif_jax.noise import hold_out_items

NO_TRIPLES = np.zeros((0, 3), np.int32)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Items 3, 4 and 5 are cold; item 5 has no features, and no link in common with another item."""
    features = np.array([[1, 0], [0, 1], [1, 1], [2, 0], [1, -1], [0, 0]], np.float32)
    return Dataset(
        name="hand",
        num_users=2,
        num_items=6,
        num_entities=9,
        num_relations=1,
        train=np.array([(0, 0), (0, 1), (1, 2)], np.int32),
        valid=np.zeros((0, 2), np.int32),
        test=np.array([(0, 3), (1, 4)], np.int32),
        triples=np.array([(0, 0, 6), (1, 0, 7), (4, 0, 7), (5, 0, 8)], np.int32),
        features={"visual": Modality(features, np.array([1, 1, 1, 1, 1, 0], np.bool_))},
        user_ids=np.array(["a", "b"]),
        item_ids=np.array(list("stuvwx")),
    )


def test_neighbours_by_features_on_paper(dataset: Dataset):
    cold = find_cold_items(dataset, ("visual",), knowledge=False, num_neighbors=2)
    assert cold is not None
    assert cold.items.tolist() == [3, 4]
    assert cold.neighbors[0].tolist() == [0, 2]
    np.testing.assert_allclose(cold.weights[0], np.array([1, np.sqrt(0.5)]) / (1 + np.sqrt(0.5)), rtol=1e-6)
    np.testing.assert_allclose(np.sum(cold.weights, axis=1), 1.0, rtol=1e-6)
    assert float(cold.weights[1, 0]) == 1.0  # item 2 is at a right angle, item 1 further away
    assert int(cold.neighbors[1, 0]) == 0


def test_neighbours_by_entities(dataset: Dataset):
    cold = find_cold_items(dataset, (), knowledge=True, num_neighbors=1)
    assert cold is not None
    linked = dict(zip(cold.items.tolist(), cold.neighbors[:, 0].tolist(), strict=True))
    assert linked[4] == 1
    assert 3 not in linked  # no triple names it


def test_nothing_to_inherit(dataset: Dataset):
    assert find_cold_items(dataset, (), knowledge=False, num_neighbors=2) is None
    warm = dataclasses.replace(dataset, train=np.array([(0, item) for item in range(6)], np.int32))
    assert find_cold_items(warm, ("visual",), knowledge=True, num_neighbors=2) is None
    x = jnp.ones((6, 2))
    assert inherit(x, None) is x


def test_inherited_rows_have_the_direction_of_the_neighbours_and_the_length_of_a_warm_item():
    x = jnp.array([[3.0, 4.0], [9.0, 9.0], [0.0, 1.0], [7.0, 7.0]])
    cold = ColdItems(
        jnp.array([1, 3]), jnp.array([[0, 2], [2, 0]]), jnp.array([[0.25, 0.75], [1.0, 0.0]]), jnp.float32(2)
    )
    between = np.array([0.75, 1.75])
    expected = [[3, 4], 3 * between / np.linalg.norm(between), [0, 1], [0, 3]]  # 3 is the mean of lengths 5 and 1
    np.testing.assert_allclose(inherit(x, cold), expected, rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(inherit(x, cold)))(x)
    np.testing.assert_array_equal(gradient[cold.items], 0.0)
    assert np.isfinite(np.asarray(gradient)).all()
    assert np.isfinite(np.asarray(jax.grad(lambda x: jnp.sum(inherit(x, cold)))(jnp.zeros((4, 2))))).all()


def test_the_own_embedding_of_a_cold_item_counts_for_nothing():
    config = Config(width=8, feature_neighbors=3, correlation_neighbors=3)
    data = hold_out_items(synthetic(num_users=30, num_items=24, num_clusters=3), 0.2, 0)
    graphs, model = build_graphs(data, config), make_model(data, config)
    assert graphs.cold is not None
    cold = np.asarray(graphs.cold.items)
    assert set(cold.tolist()) <= set(np.flatnonzero(np.bincount(data.train[:, 1], minlength=24) == 0).tolist())
    loop = correlation.empty(24, 3)
    params = model.init_params(jax.random.key(0), graphs, loop)
    encode = jax.jit(model.encode)
    moved = params | {"item_embedding": params["item_embedding"].at[cold].add(5.0)}
    for before, after in zip(
        jax.tree.leaves(encode(params, graphs, loop)), jax.tree.leaves(encode(moved, graphs, loop)), strict=True
    ):
        np.testing.assert_allclose(before, after, atol=1e-6)
