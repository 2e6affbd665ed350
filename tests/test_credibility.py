"""Weights of training interactions: where chance made some, those count less; where it did not, all count alike."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import credibility, graphs, linear, noise, sampling
from slif_jax.config import Config
from slif_jax.credibility import share_of_chance, weigh_interactions
from slif_jax.data import DataError, Dataset, validate
from slif_jax.data.synthetic import synthetic
from slif_jax.prepare import load_dataset
from slif_jax.train_step import training_data

CLEAN = synthetic(num_users=1000, num_items=600, seed=3)
NOISY = noise.add_interactions(CLEAN, 0.4, 0)


def keys(dataset: Dataset) -> np.ndarray:
    return dataset.train[:, 0].astype(np.int64) * dataset.num_items + dataset.train[:, 1]


def weights_of(dataset: Dataset) -> np.ndarray:
    weights = weigh_interactions(dataset).train_weights
    assert weights is not None
    return weights


def test_what_was_added_by_chance_counts_less():
    made, weights = np.isin(keys(NOISY), keys(CLEAN)), weights_of(NOISY)
    assert weights.dtype == np.float32
    assert weights[made].mean() > weights[~made].mean() + 0.05
    assert weights.min() >= 0.05
    assert weights.max() <= 1.0
    np.testing.assert_array_equal(weights, weights_of(NOISY))


def only_items(dataset: Dataset, keep: np.ndarray) -> Dataset:
    return dataclasses.replace(dataset, train=dataset.train[keep[dataset.train[:, 1]]])


@pytest.mark.parametrize("seed", range(5))
def test_clean_data_are_left_alone_with_and_without_rare_items(seed):
    clean = synthetic(num_users=1000, num_items=600, seed=seed)
    counts = np.bincount(clean.train[:, 1], minlength=600)
    for least in (1, 5):
        assert weigh_interactions(only_items(clean, counts >= least)).train_weights is None


def test_chance_is_found_where_rare_items_were_left_out():
    assert share_of_chance(only_items(NOISY, np.bincount(NOISY.train[:, 1], minlength=600) >= 5)) > 0.2


def test_share_of_chance_is_what_chance_made_of_rare_items():
    """Rare items lose their own takers: all of them, or half, for users drawn by activity."""
    counts = np.bincount(CLEAN.train[:, 1], minlength=600)
    rare = (counts > 1) & (counts <= np.quantile(counts[counts > 1], 0.3))
    rng = np.random.default_rng(0)
    found = []
    for share in (0.0, 0.5, 1.0):
        train = CLEAN.train.copy()
        lost = rare[train[:, 1]] & (rng.random(len(train)) < share)
        train[lost, 0] = rng.choice(CLEAN.train[:, 0], lost.sum())
        found.append(share_of_chance(dataclasses.replace(CLEAN, train=np.unique(train, axis=0))))
    assert found[0] == 0.0
    assert 0.4 < found[1] < 0.8
    assert found[2] > 0.85


def pure_chance(num_users: int, num_items: int, pairs: int) -> Dataset:
    """Users and items by laws of their own, and nothing else."""
    rng = np.random.default_rng(0)
    users, items = (
        rng.choice(n, 2 * pairs, p=1.0 / (5 + np.arange(n)) / (1.0 / (5 + np.arange(n))).sum())
        for n in (num_users, num_items)
    )
    train = np.unique(np.stack([users, items], axis=1)[:pairs], axis=0).astype(np.int32)
    return dataclasses.replace(CLEAN, num_users=num_users, num_items=num_items, train=train)


@pytest.mark.parametrize("sizes", [(2000, 1000, 9000), (8000, 8000, 40_000)])
def test_half_of_the_answers_are_right_where_chance_made_everything(sizes):
    dataset = pure_chance(*sizes)
    counts = np.bincount(dataset.train[:, 1], minlength=dataset.num_items)
    for group in credibility._by_count(counts):
        questions = credibility._Questions(dataset, np.random.default_rng(1))
        asked = np.random.default_rng(2).choice(group, 20_000)
        found = questions.right_answers(asked, np.minimum(counts[asked], 9))
        assert found == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(counts[group].sum()))
    assert share_of_chance(dataset) == 0.0  # nothing to compare with


def test_likeness_on_paper():
    dataset = pure_chance(40, 30, 300)
    histories = [set(dataset.train[dataset.train[:, 0] == user, 1].tolist()) for user in range(40)]
    counts = np.bincount(dataset.train[:, 1], minlength=30)
    rng = np.random.default_rng(3)
    questions = credibility._Questions(dataset, rng)
    asked = rng.choice(np.flatnonzero(counts > 3), 200)
    known, one = questions._draw_takers(asked, np.full(200, 3))
    row = questions._draw_others(known)
    other, random_item = dataset.train[row].T
    likeness = questions._likeness(known @ questions._taken, one, asked)
    likeness_of_other = questions._likeness(known @ questions._taken, other, asked, random_item)
    for n, item in enumerate(asked):
        takers = np.flatnonzero(known.toarray()[n])
        assert len({one[n], *takers}) == 3
        assert all(item in histories[user] for user in (one[n], *takers))
        assert other[n] not in takers
        for found, history in (
            (likeness[n], histories[one[n]] - {item}),
            (likeness_of_other[n], histories[other[n]] - {item, random_item[n]}),
        ):
            each = [sum(j in histories[user] for user in takers) / np.sqrt(counts[j]) for j in history]
            assert found == pytest.approx(np.mean(each) if each else 0.0, abs=1e-12)


@pytest.mark.parametrize(
    "train", [[], [(0, 0)], [(0, 0), (1, 0)], [(u, u % 7) for u in range(60)], [(0, i) for i in range(30)]]
)
def test_where_there_is_little_nothing_is_weighed(train):
    few = dataclasses.replace(CLEAN, train=np.array(train, np.int32).reshape(-1, 2))
    assert weigh_interactions(few).train_weights is None


def test_weights_on_paper(monkeypatch):
    """Of four items with two interactions or more, the one taken least has 2, and half of these by chance."""
    monkeypatch.setattr(credibility, "share_of_chance", lambda dataset: 0.5)
    counts = [1, 2, 4, 10, 40]
    pairs = [(user, item) for item, count in enumerate(counts) for user in range(count)]
    dataset = dataclasses.replace(CLEAN, train=np.array(sorted(pairs), np.int32))
    expected = np.array([0.05, 0.5, 0.75, 0.9, 0.975])[dataset.train[:, 1]]
    np.testing.assert_allclose(weights_of(dataset), expected, rtol=1e-6)


def test_weights_reach_graphs_linear_models_and_losses():
    config = Config(regression_weight=0.1, regression_rank=5, loss="bpr")
    weighed = weigh_interactions(NOISY)
    w = weights_of(NOISY).astype(np.float64)
    users, items = NOISY.train.T
    ends = np.bincount(users, w, 1000)[users] * np.bincount(items, w, 600)[items]
    built: Any = graphs.build_graphs(weighed, config)
    found = np.zeros((1000, 600))
    at = built.user_items
    found[np.asarray(at.receivers)[: len(w)], np.asarray(at.senders)[: len(w)]] = np.asarray(graphs.edge_weights(at))[
        : len(w)
    ]
    np.testing.assert_allclose(found[users, items], w / np.sqrt(ends), rtol=1e-5)
    plain: Any = graphs.build_graphs(NOISY, config)
    assert not np.allclose(built.linear["regression"].items, plain.linear["regression"].items)
    np.testing.assert_allclose(linear._history(weighed).toarray()[users, items], w, rtol=1e-6)
    for loss in ("softmax", "bpr"):
        data = training_data(weighed, dataclasses.replace(config, loss=loss)).interactions
        index = jnp.array([3, -1, 11, 0])
        shared = loss == "softmax"
        batch = sampling.sample_batch(jax.random.key(0), data, index, num_negatives=2, shared=shared)
        np.testing.assert_allclose(batch.weight, np.array([w[3], 0.0, w[11], w[0]]), rtol=1e-6)


def test_they_are_estimated_where_they_are_asked_for():
    config = Config(dataset="synthetic:users=1000,items=600,seed=3", interaction_noise=0.8, weigh_interactions=True)
    assert load_dataset(config).train_weights is not None
    assert load_dataset(dataclasses.replace(config, side_information=False)).train_weights is None
    assert load_dataset(dataclasses.replace(config, weigh_interactions=False)).train_weights is None


def test_they_fit_the_interactions():
    weighed = weigh_interactions(NOISY)
    assert noise.hold_out_items(weighed, 0.1, 0).train_weights is None
    for wrong in (np.ones(3, np.float32), np.zeros(len(NOISY.train), np.float32)):
        with pytest.raises(DataError, match="train_weights"):
            validate(dataclasses.replace(NOISY, train_weights=wrong))
