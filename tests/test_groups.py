"""Warm and cold items, activity groups, intervals, and the values per user that are left on disk."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import groups
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.evaluate import Evaluation, evaluate_vectors, ranking_task
from slif_jax.model import Vectors
from slif_jax.protocols import PROTOCOLS
from slif_jax.train import train_and_evaluate

CONFIG = Config(topk=(1, 3), select_on="recall@3", eval_block=8, activity_groups=2)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Items 6 and 7 are in test alone; user 4 has no training rows."""
    train = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 3), (3, 4), (3, 5)]
    test = [(0, 1), (0, 6), (1, 7), (2, 5), (3, 0), (3, 6), (3, 7), (4, 2)]
    return Dataset(
        name="hand",
        num_users=5,
        num_items=8,
        num_entities=8,
        num_relations=0,
        train=np.array(train, np.int32),
        valid=np.zeros((0, 2), np.int32),
        test=np.array(test, np.int32),
        triples=np.zeros((0, 3), np.int32),
        features={},
        user_ids=np.array(list("abcde")),
        item_ids=np.array(list("stuvwxyz")),
    )


@pytest.fixture(scope="module")
def evaluation(dataset: Dataset) -> Evaluation:
    """Everybody's list is 7, 6, 5, ... without what they have seen."""
    vectors = Vectors(jnp.ones((5, 1)), jnp.arange(8, dtype=jnp.float32)[:, None])
    return evaluate_vectors(vectors, ranking_task(dataset, "test", CONFIG))


def column(evaluation: Evaluation, values: np.ndarray, name: str) -> list[float]:
    return values[:, evaluation.names.index(name)].tolist()


def test_hits_tell_warm_from_cold_items(evaluation: Evaluation):
    assert evaluation.hits.tolist() == [[0, 2, 0], [2, 0, 0], [0, 0, 1], [2, 2, 0], [0, 0, 0]]


def test_metrics_over_the_relevant_items_of_a_kind(evaluation: Evaluation):
    cold = groups.item_values(evaluation, cold=True)
    warm = groups.item_values(evaluation, cold=False)
    np.testing.assert_equal(column(evaluation, cold, "recall@1"), [0.0, 1.0, np.nan, 0.5, np.nan])
    np.testing.assert_equal(column(evaluation, cold, "recall@3"), [1.0, 1.0, np.nan, 1.0, np.nan])
    np.testing.assert_equal(column(evaluation, warm, "recall@3"), [0.0, np.nan, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(column(evaluation, cold, "ndcg@3")[0], 1 / np.log2(3))
    both = np.nansum([np.array(column(evaluation, x, "precision@3")) for x in (warm, cold)], axis=0)
    np.testing.assert_allclose(both, column(evaluation, evaluation.values, "precision@3"))


def test_users_by_activity(evaluation: Evaluation):
    group, names = groups.activity(evaluation, 2)
    assert names == ["1 to 2", "3"]
    assert group.tolist() == [0, 0, 1, 1, -1]
    assert groups.activity(evaluation, 1)[1] == ["1 to 3"]
    many, names = groups.activity(evaluation, 50)
    assert names == ["1", "2", "3"]
    assert many.tolist() == [0, 1, 2, 2, -1]


def test_an_interval_is_196_standard_errors():
    values = np.array([[0.0], [1.0], [1.0], [0.0]])
    (interval,) = groups.intervals(values, ("recall@3",)).values()
    assert interval is not None
    np.testing.assert_allclose(interval, 0.5 + 1.959964 * np.sqrt(1 / 3 / 4) * np.array([-1, 1]), rtol=1e-6)
    assert groups.intervals(values[:1], ("recall@3",)) == {"recall@3": None}


def test_group_results(evaluation: Evaluation):
    found = groups.test_results(evaluation, 2, None)
    assert found["test_users"] == 4
    assert found["test_without_history"]["users"] == 1
    cold = found["test_groups"]["items"]["cold"]
    assert (cold["users"], cold["relevant"]) == (3, 4)
    np.testing.assert_allclose(cold["means"]["recall@1"], 0.5)
    warm = found["test_groups"]["items"]["warm"]
    assert (warm["users"], warm["relevant"]) == (3, 3)  # the user without history is in no mean
    activity = found["test_groups"]["activity"]
    assert {name: entry["users"] for name, entry in activity.items()} == {"1 to 2": 2, "3": 2}
    np.testing.assert_allclose(
        np.mean([entry["means"]["recall@3"] for entry in activity.values()]), found["test"]["recall@3"]
    )
    low, high = found["test_interval"]["recall@3"]
    assert low < found["test"]["recall@3"] < high


def test_cold_items_among_themselves(evaluation: Evaluation, dataset: Dataset, tmp_path: Path):
    vectors = Vectors(jnp.ones((5, 1)), jnp.asarray([8.0, 7, 6, 5, 4, 3, -2, -1])[:, None])
    task = groups.cold_items_task(dataset, "test", CONFIG)
    assert task is not None
    found = evaluate_vectors(vectors, task)  # everybody's list is 7, 6, below all others though they are
    assert found.users.tolist() == [0, 1, 3]
    assert found.hits[:, :2].tolist() == [[0, 2], [2, 0], [2, 2]]
    entry = groups.test_results(evaluation, 2, found)["test_groups"]["items"]["among_cold"]
    assert (entry["users"], entry["relevant"]) == (3, 4)
    np.testing.assert_allclose(entry["means"]["recall@1"], (0 + 1 + 0.5) / 3)
    groups.save_users(tmp_path / "test_users.npz", evaluation, dataset, CONFIG, found)
    with np.load(tmp_path / "test_users.npz", allow_pickle=False) as file:
        values = file["among_cold_values"]
    np.testing.assert_equal(column(evaluation, values, "recall@1"), [0.0, 1.0, np.nan, 0.5, np.nan])
    nobody = groups.test_results(evaluation, 2, None)["test_groups"]["items"]["among_cold"]
    assert nobody == {"users": 0, "relevant": 0, "means": {}, "interval": {}, "candidates": 0}
    assert entry["candidates"] == 2
    assert groups.cold_items_task(dataset, "valid", CONFIG) is None


def test_cold_items_that_are_no_candidates_are_in_no_list(dataset: Dataset):
    listed = dataclasses.replace(PROTOCOLS["strict"], candidates="listed")
    task = groups.cold_items_task(dataset, "test", CONFIG, protocol=listed, candidates=np.array([0, 2, 7]))
    assert task is not None
    assert np.asarray(task.arrays.candidates).tolist() == [7]
    assert not groups.cold_items_task(dataset, "test", CONFIG, protocol=listed, candidates=np.array([0, 2]))
    in_train = dataclasses.replace(PROTOCOLS["strict"], candidates="train")
    assert not groups.cold_items_task(dataset, "test", CONFIG, protocol=in_train)
    for name in ("mmrec", "recbole", "kgat"):
        task = groups.cold_items_task(dataset, "test", CONFIG, protocol=PROTOCOLS[name])
        assert task is not None
        found = evaluate_vectors(Vectors(jnp.ones((5, 1)), jnp.arange(8, dtype=jnp.float32)[:, None]), task)
        np.testing.assert_array_equal(found.hits > 0, found.hits == 2)
        assert (found.hits > 0).sum() == 4


@pytest.mark.usefixtures("standard_promotion")  # for optax
def test_a_training_ranks_cold_items_among_themselves(tmp_path: Path):
    config = Config(dataset="synthetic:users=60,items=40,seed=1", width=8, epochs=1, cold_items=0.2)
    found = train_and_evaluate(config, tmp_path, progress="off")["test_groups"]["items"]
    assert found["among_cold"]["candidates"] == 8
    assert found["among_cold"]["relevant"] == found["cold"]["relevant"] > 0
    assert found["among_cold"]["means"]["recall@5"] >= found["cold"]["means"]["recall@5"]
    with np.load(tmp_path / "test_users.npz", allow_pickle=False) as file:
        values, counted = file["among_cold_values"], file["counted"]
    means = np.nanmean(values[counted], axis=0)
    np.testing.assert_allclose(means, list(found["among_cold"]["means"].values()))


def test_a_group_of_nobody_has_no_means(dataset: Dataset):
    vectors = Vectors(jnp.ones((5, 1)), jnp.ones((8, 1)))
    nothing = evaluate_vectors(vectors, ranking_task(dataset, "valid", CONFIG))
    entry = groups.test_results(nothing, 4, None)["test_groups"]["items"]["cold"]
    assert entry == {"users": 0, "relevant": 0, "means": {}, "interval": {}}


def test_values_per_user_on_disk(evaluation: Evaluation, dataset: Dataset, tmp_path: Path):
    groups.save_users(tmp_path / "test_users.npz", evaluation, dataset, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["test_users.npz"]
    with np.load(tmp_path / "test_users.npz", allow_pickle=False) as file:
        saved = dict(file)
    assert saved["user_ids"].tolist() == list("abcde")
    assert saved["activity"].tolist() == ["1 to 2", "1 to 2", "3", "3", ""]
    assert saved["counted"].tolist() == [True] * 4 + [False]
    assert tuple(saved["names"].tolist()) == evaluation.names
    np.testing.assert_array_equal(saved["values"], evaluation.values)
    np.testing.assert_array_equal(saved["cold_item_values"], groups.item_values(evaluation, cold=True))
    assert saved["num_cold_relevant"].tolist() == [1, 1, 0, 2, 0]
    assert str(saved["split_fingerprint"]) == dataset.split_fingerprint
