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


def test_clean_data_are_left_alone_with_and_without_rare_items():
    counts = np.bincount(CLEAN.train[:, 1], minlength=600)
    for least in (1, 5, 10):
        assert weigh_interactions(only_items(CLEAN, counts >= least)).train_weights is None
    assert share_of_chance(only_items(NOISY, np.bincount(NOISY.train[:, 1], minlength=600) >= 10)) > 0.2


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
    assert 0.2 < found[1] < 0.9
    assert found[2] > 0.85


def test_where_it_cannot_be_told_nothing_is_weighed():
    few = noise.add_interactions(synthetic(num_users=60, num_items=40, seed=0), 0.5, 0)
    assert share_of_chance(few) == 0.0
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
    config = Config(dataset="synthetic:users=1000,items=600,seed=3", interaction_noise=0.4, weigh_interactions=True)
    assert load_dataset(config).train_weights is not None
    assert load_dataset(dataclasses.replace(config, side_information=False)).train_weights is None
    assert load_dataset(dataclasses.replace(config, weigh_interactions=False)).train_weights is None


def test_they_fit_the_interactions():
    weighed = weigh_interactions(NOISY)
    assert noise.hold_out_items(weighed, 0.1, 0).train_weights is None
    for wrong in (np.ones(3, np.float32), np.zeros(len(NOISY.train), np.float32)):
        with pytest.raises(DataError, match="train_weights"):
            validate(dataclasses.replace(NOISY, train_weights=wrong))
