"""Weights of training interactions: where chance made some, those count less; where it did not, all count alike."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import graphs, linear, noise, sampling
from slif_jax.config import Config
from slif_jax.credibility import weigh_interactions
from slif_jax.data import DataError, Dataset, validate
from slif_jax.data.synthetic import synthetic
from slif_jax.prepare import load_dataset
from slif_jax.train_step import training_data

CLEAN = synthetic(num_users=400, num_items=150, seed=3)
NOISY = noise.add_interactions(CLEAN, 0.4, 0)


def keys(dataset: Dataset) -> np.ndarray:
    return dataset.train[:, 0].astype(np.int64) * dataset.num_items + dataset.train[:, 1]


def weights_of(dataset: Dataset) -> np.ndarray:
    weights = weigh_interactions(dataset).train_weights
    assert weights is not None
    return weights


def with_counts(counts: list[int], num_users: int = 60) -> Dataset:
    """Item i is taken by `counts[i]` users, one after the other round the table."""
    firsts = np.cumsum([0, *counts])
    pairs = [((firsts[i] + j) % num_users, i) for i, count in enumerate(counts) for j in range(count)]
    return dataclasses.replace(
        CLEAN,
        num_users=num_users,
        num_items=len(counts),
        num_entities=len(counts),
        num_relations=0,
        train=np.array(sorted(pairs), np.int32),
        valid=np.zeros((0, 2), np.int32),
        test=np.zeros((0, 2), np.int32),
        triples=np.zeros((0, 3), np.int32),
        features={},
        user_ids=np.arange(num_users).astype(str),
        item_ids=np.arange(len(counts)).astype(str),
        item_titles=None,
        entity_names=None,
        relation_names=None,
    )


def test_what_was_added_by_chance_counts_less():
    clean = with_counts([1 + int(290 / (i + 1) ** 0.8) for i in range(400)], num_users=300)
    noisy = noise.add_interactions(clean, 0.4, 0)
    made, weights = np.isin(keys(noisy), keys(clean)), weights_of(noisy)
    assert weights.dtype == np.float32
    assert weights[made].mean() > weights[~made].mean() + 0.1
    assert weights.min() >= 0.05
    assert weights.max() <= 1.0
    assert weights_of(clean).mean() > weights.mean() + 0.1


def test_items_taken_once_say_that_nothing_was_made_by_chance():
    assert weigh_interactions(with_counts([1] * 40 + [9, 12, 20, 30] * 15)).train_weights is None


def test_weights_on_paper():
    """Of 1,000 items, lambda is 1.5 times the mean of the 300 least taken, less what the fourth has."""
    counts = [1, 2, 2, 3, *[6] * 296, *[10] * 700]
    dataset = with_counts(counts)
    chance = 1.5 * (np.mean(counts[:300]) - 3)
    expected = np.maximum(1 - chance / np.array(counts)[dataset.train[:, 1]], 0.05)
    np.testing.assert_allclose(weights_of(dataset), expected, rtol=1e-6)


def test_weights_reach_graphs_linear_models_and_losses():
    config = Config(regression_weight=0.1, regression_rank=5, loss="bpr")
    weighed = weigh_interactions(NOISY)
    w = weights_of(NOISY).astype(np.float64)
    users, items = NOISY.train.T
    ends = np.bincount(users, w, 400)[users] * np.bincount(items, w, 150)[items]
    built: Any = graphs.build_graphs(weighed, config)
    found = np.zeros((400, 150))
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
    config = Config(dataset="synthetic:users=400,items=150,seed=3", interaction_noise=0.4, weigh_interactions=True)
    assert load_dataset(config).train_weights is not None
    assert load_dataset(dataclasses.replace(config, side_information=False)).train_weights is None
    assert load_dataset(dataclasses.replace(config, weigh_interactions=False)).train_weights is None


def test_they_fit_the_interactions():
    weighed = weigh_interactions(NOISY)
    assert noise.hold_out_items(weighed, 0.1, 0).train_weights is None
    for wrong in (np.ones(3, np.float32), np.zeros(len(NOISY.train), np.float32)):
        with pytest.raises(DataError, match="train_weights"):
            validate(dataclasses.replace(NOISY, train_weights=wrong))
