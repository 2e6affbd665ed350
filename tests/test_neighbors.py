"""Nearest rows of large tables: the same on one device and on a mesh, and nobody reads more than its share."""

import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import correlation
from slif_jax.config import Config
from slif_jax.data import FilledRows, Modality
from slif_jax.data.synthetic import synthetic
from slif_jax.graphs import build_graphs, edge_weights, item_features
from slif_jax.meshes import built_on_host, make_mesh
from slif_jax.neighbors import SideBySide, nearest_rows
from slif_jax.noise import hold_out_items
from slif_jax.placement import place
from slif_jax.sharding import Sharder

DATASET = hold_out_items(synthetic(num_users=60, num_items=101, seed=3), 0.1, 0)


class Watched:
    """Rows that remember how many were read at once, and which ones."""

    dtype = np.dtype(np.float32)

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape = values, values.shape
        self.read: list[int] = []

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        found = self.values[rows]
        self.read.append(len(found))
        return found


def slow(queries: np.ndarray, keys: np.ndarray, k: int, *, same: bool) -> tuple[np.ndarray, np.ndarray]:
    ids, values = np.full((len(queries), k), -1), np.zeros((len(queries), k))
    for row, query in enumerate(queries):
        products = keys @ query
        order = [key for key in np.argsort(-products, kind="stable") if not (same and key == row)]
        for place_, key in enumerate(key for key in order[:k] if products[key] > 0):
            ids[row, place_], values[row, place_] = key, products[key]
    return ids, values


def whole_numbers(rows: int, *, seed: int) -> np.ndarray:
    """Products without rounding, and many ties."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, 4)).astype(np.float32)


@pytest.mark.parametrize("mesh", ["none", "data:2", "data:8", "data:4,model:2"])
def test_nearest_rows_and_their_ties_on_any_mesh(mesh: str):
    made, table = make_mesh(mesh), whole_numbers(45, seed=1)
    for k in (3, 60):
        found = nearest_rows(table, table, k, made)
        for ours, expected in zip(found, slow(table, table, k, same=True), strict=True):
            np.testing.assert_array_equal(ours, expected)
    queries, few = whole_numbers(13, seed=2), whole_numbers(5, seed=3)  # fewer rows than devices
    for ours, expected in zip(nearest_rows(queries, few, 4, made), slow(queries, few, 4, same=False), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_rows_side_by_side():
    first, second = np.array([[3, 4], [0, 0], [2, 0]], np.float32), np.array([[5], [-2], [0]], np.float32)
    joined = SideBySide([first, second], np.array([2, 0, 1]))
    assert joined.shape == (3, 3)
    expected = np.array([[1, 0, 0], [0.6, 0.8, 1], [0, 0, -1]], np.float32)
    np.testing.assert_allclose(joined[:], expected)
    np.testing.assert_allclose(joined[np.array([1, 1])], expected[[1, 1]])
    np.testing.assert_allclose(joined[2:9], expected[2:])


def test_features_are_read_by_rows():
    values = np.array([[1, 2], [3, 4], [np.nan, 9]], np.float16)
    modality = Modality(values, np.array([True, True, False]))
    rows = FilledRows(modality)
    np.testing.assert_array_equal(rows[:], [[1, 2], [3, 4], [0, 0]])
    np.testing.assert_array_equal(rows[np.array([2, 1])], [[0, 0], [3, 4]])
    np.testing.assert_array_equal(FilledRows(modality, mean=True)[1:], [[3, 4], [2, 3]])
    assert rows[1:].dtype == np.float32
    nobody = FilledRows(Modality(values, np.zeros(3, np.bool_)), mean=True)
    np.testing.assert_array_equal(nobody[:], np.zeros((3, 2)))


def test_no_read_is_larger_than_a_devices_share():
    mesh, table = make_mesh("data:8"), Watched(whole_numbers(101, seed=1))
    assert mesh is not None
    nearest_rows(table, table, 3, mesh)
    assert max(table.read) <= 13
    assert sum(table.read) == 101
    table.read.clear()
    items = place(DATASET, 8).items
    spread = Sharder(mesh, place(DATASET, 8)).spread(table, items)
    assert max(table.read) <= 13
    np.testing.assert_array_equal(items.collect(np.asarray(spread)), table.values)


@pytest.mark.parametrize("missing", ["neighbours", "mean"])
def test_graphs_for_a_mesh_are_those_of_one_device_and_have_not_read_the_features(missing: str):
    mesh, config = make_mesh("data:4"), Config(missing_features=missing)
    assert mesh is not None
    alone = build_graphs(DATASET, config)
    with built_on_host(mesh):
        graphs = build_graphs(DATASET, config, mesh)
    placements = place(DATASET, 4)
    sharded = Sharder(mesh, placements).graphs(graphs)
    for name, expected in alone.features.items():
        assert isinstance(item_features(graphs.features[name]).x, FilledRows)
        np.testing.assert_array_equal(graphs.features[name].senders, expected.senders)
        np.testing.assert_allclose(edge_weights(graphs.features[name]), edge_weights(expected), atol=1e-6)
        for ours, theirs in zip(item_features(sharded.features[name]), item_features(expected), strict=True):
            np.testing.assert_array_equal(placements.items.collect(np.asarray(ours)), theirs)
    assert alone.cold is not None
    assert graphs.cold is not None
    for ours, theirs in zip(graphs.cold, alone.cold, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    first, second = (
        correlation.neighbors(correlation.warm_up(built, 101, kind="features", num_neighbors=5, mesh=at), 5)
        for built, at in ((graphs, mesh), (alone, None))
    )
    np.testing.assert_array_equal(first, second)
    assert np.any(first >= 0)
    sides = [np.asarray(item_features(graph).x) for graph in alone.features.values()]
    lengths = [np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
    joined = np.concatenate([side / np.maximum(at, 1e-9) for side, at in zip(sides, lengths, strict=True)], axis=1)
    joined[~np.asarray(alone.warm)] = 0.0
    expected = correlation.neighbors(correlation.rebuild(jnp.asarray(joined), num_neighbors=5), 5)
    np.testing.assert_array_equal(first, expected)
