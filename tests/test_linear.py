"""Linear models: EASE, walks and content in factors, and their place beside the vectors that scores are made of."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import linear
from slif_jax.cold_items import ColdItems
from slif_jax.config import CONTENT, Config
from slif_jax.data import Dataset, Modality
from slif_jax.data.synthetic import synthetic
from slif_jax.evaluate import evaluate_vectors, ranking_task
from slif_jax.explain import explain, gather_evidence
from slif_jax.linear import LinearScores, beside, fit_content, fit_linear, fit_regression, fit_walks
from slif_jax.noise import hold_out_items
from slif_jax.recommend import load_trained
from slif_jax.train import train_and_evaluate

DATASET = hold_out_items(synthetic(num_users=70, num_items=50, seed=2), 0.1, 0)
HISTORY = np.zeros((70, 50))
HISTORY[tuple(DATASET.train.T)] = 1.0


def ease(l2: float) -> np.ndarray:
    """As Steck's paper has it, users weighed: a zero diagonal, from the inverse of the Gram matrix."""
    count = 1.0 / HISTORY.sum(axis=1)
    inverse = np.linalg.inv((HISTORY.T * count / count.mean()) @ HISTORY + l2 * np.eye(50))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return HISTORY @ weights


def test_at_full_rank_it_is_ease_for_what_a_user_does_not_have():
    found = fit_regression(DATASET, rank=1000, l2=3.0, user_power=0.5)
    scores, expected = np.asarray(found.users @ found.items.T), ease(3.0)
    warm = HISTORY.any(axis=0)
    for user in range(70):
        unseen = warm & (HISTORY[user] == 0)
        ratio = scores[user, unseen] @ expected[user, unseen] / (expected[user, unseen] @ expected[user, unseen])
        assert ratio > 0
        np.testing.assert_allclose(scores[user, unseen], ratio * expected[user, unseen], atol=2e-4)


def test_scores_of_a_user_vary_by_one_and_cold_items_are_as_good_as_the_mean():
    for rank in (5, 1000):
        found = fit_regression(DATASET, rank=rank, l2=3.0, user_power=0.5)
        assert found.users.shape == (70, min(rank, 50))
        scores = np.asarray(found.users @ found.items.T)
        np.testing.assert_allclose(scores.std(axis=1), 1.0, atol=1e-3)
        warm = HISTORY.any(axis=0)
        assert not warm.all()
        means = scores[:, warm].mean(axis=1, keepdims=True)
        np.testing.assert_allclose(scores[:, ~warm], np.broadcast_to(means, (70, (~warm).sum())), atol=1e-3)


def test_cold_items_go_from_the_mean_to_that_of_their_neighbours():
    is_cold = ~HISTORY.any(axis=0)
    cold_ids, near = np.flatnonzero(is_cold)[:2], np.flatnonzero(~is_cold)[:4].reshape(2, 2)
    cold = ColdItems(*map(jnp.asarray, (cold_ids, near, np.array([[0.25, 0.75], [1.0, 0.0]]), np.float32(48))))

    def ends(reach: float, fit: Any) -> np.ndarray:
        return np.asarray(fit(cold=cold, cold_reach=reach).items)

    for fit in (
        functools.partial(fit_regression, DATASET, rank=9, l2=3.0, user_power=0.5),
        functools.partial(walks, rank=5),
    ):
        mean, found = ends(0.0, fit)[cold_ids], ends(1.0, fit)
        np.testing.assert_array_equal(mean, np.asarray(fit().items)[cold_ids])
        np.testing.assert_allclose(found[cold_ids[0]], 0.25 * found[near[0, 0]] + 0.75 * found[near[0, 1]], atol=1e-6)
        np.testing.assert_allclose(found[cold_ids[1]], found[near[1, 0]], atol=1e-6)
        np.testing.assert_allclose(ends(0.5, fit)[cold_ids], 0.5 * (mean + found[cold_ids]), atol=1e-6)
        np.testing.assert_array_equal(found[~is_cold], np.asarray(fit().items)[~is_cold])


def test_a_user_without_history_has_no_scores():
    dataset = dataclasses.replace(DATASET, train=DATASET.train[DATASET.train[:, 0] != 4])
    assert not np.asarray(fit_regression(dataset, rank=5, l2=3.0, user_power=0.5).users)[4].any()


def test_the_truncated_factors_are_those_of_the_largest_singular_values():
    few, all_ = (
        fit_regression(DATASET, rank=12, l2=3.0, user_power=0.5),
        fit_regression(DATASET, rank=1000, l2=3.0, user_power=0.5),
    )
    assert few.items.shape == (50, 12)
    scores, expected = (np.asarray(x.users @ x.items.T) for x in (few, all_))
    similar = [np.corrcoef(a, b)[0, 1] for a, b in zip(scores, expected, strict=True)]
    assert 0.7 < np.mean(similar) < 1.0


@pytest.mark.parametrize("shape", [(70, 50), (40, 90)])
def test_both_ways_to_the_factors_give_the_same_scores(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    dataset = synthetic(num_users=shape[0], num_items=shape[1], seed=5)
    dense = fit_regression(dataset, rank=9, l2=3.0, user_power=0.5)
    monkeypatch.setattr(linear, "_MOST_DENSE", 10)
    sparse = fit_regression(dataset, rank=9, l2=3.0, user_power=0.5)
    assert dense.items.shape == sparse.items.shape == (shape[1], 9)
    np.testing.assert_allclose(dense.users @ dense.items.T, sparse.users @ sparse.items.T, atol=2e-4)


def walks(dataset: Dataset = DATASET, **changed: Any) -> LinearScores:
    settings: dict[str, Any] = {"rank": 12, "length": 3, "user_power": 0.7, "item_power": 0.3}
    return fit_walks(dataset, **(settings | changed))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_at_full_rank_walks_are_powers_of_steps_that_leave_the_item(length: int):
    found = walks(rank=1000, length=length)
    assert found.users.shape == (70, 50)
    of_users, of_items = (np.maximum(HISTORY.sum(axis=axis), 1.0) for axis in (1, 0))
    steps = np.zeros((50, 50))
    for mine, user in zip(HISTORY, of_users, strict=True):
        taken = mine * of_items**-0.3
        steps += np.outer(taken, taken) * user**-1.4
    np.fill_diagonal(steps, 0.0)
    expected = HISTORY @ np.linalg.matrix_power(steps, length)
    warm = HISTORY.any(axis=0)
    scores = np.asarray(found.users @ found.items.T)
    for user in range(70):
        ratio = scores[user, warm] @ expected[user, warm] / (expected[user, warm] @ expected[user, warm])
        assert ratio > 0
        np.testing.assert_allclose(scores[user, warm], ratio * expected[user, warm], atol=2e-4)
    np.testing.assert_allclose(scores.std(axis=1), 1.0, atol=1e-3)


def test_long_walks_go_where_most_go_whatever_a_user_has():
    scores = np.asarray((lambda found: found.users @ found.items.T)(walks(length=40)))
    assert np.corrcoef(scores).min() > 0.99


def test_few_columns_of_walks_are_the_eigenvectors_of_largest_eigenvalues():
    few, all_ = walks(rank=9), walks(rank=50)  # found one by one, and with all pairs written down
    assert few.items.shape == (50, 9)
    warm = HISTORY.any(axis=0)
    vectors, scores = (np.asarray(x) for x in (all_.items, few.users @ few.items.T))
    lengths = np.linalg.norm(np.asarray(all_.users), axis=0)
    kept = np.argsort(-lengths)[:9]
    expected = np.asarray(all_.users)[:, kept] @ vectors[:, kept].T
    for user in range(70):
        assert np.corrcoef(scores[user, warm], expected[user, warm])[0, 1] > 0.99


def test_a_walk_from_nothing_has_no_scores():
    dataset = dataclasses.replace(DATASET, train=DATASET.train[DATASET.train[:, 0] != 4])
    assert not np.asarray(walks(dataset).users)[4].any()
    alone = dataclasses.replace(DATASET, train=np.array([[0, 3], [1, 5]], dtype=DATASET.train.dtype))
    assert not np.asarray(walks(alone).users).any()


def content_scores(features: dict[str, Modality]) -> np.ndarray:
    """Item by item, the sum over modalities of the cosines of what is known of them, for each user's items."""
    likeness = np.zeros((50, 50))
    for modality in features.values():
        known = np.asarray(modality.values, np.float64)[modality.present]
        rows = np.zeros((50, known.shape[1]))
        rows[modality.present] = known - known.mean(axis=0)
        lengths = np.linalg.norm(rows, axis=1)
        rows[lengths > 0] /= lengths[lengths > 0, None]
        likeness += rows @ rows.T
    return HISTORY @ likeness


@pytest.mark.parametrize("values_at_once", [1 << 22, 300])
@pytest.mark.parametrize("most_dense", [3000, 3])
def test_content_is_the_likeness_to_what_a_user_has(
    values_at_once: int, most_dense: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(linear, "_VALUES_AT_ONCE", values_at_once)
    monkeypatch.setattr(linear, "_MOST_DENSE", most_dense)
    assert len(DATASET.features) > 1
    name, other = DATASET.features
    present = np.arange(50) % 5 > 0
    values = np.where(present[:, None], np.asarray(DATASET.features[name].values), np.nan)
    features = {name: Modality(values, present), other: DATASET.features[other]}
    dataset = dataclasses.replace(DATASET, features=features)
    found = fit_content(dataset, tuple(features), rank=1000)
    scores, expected = np.asarray(found.users @ found.items.T), content_scores(features)
    assert not HISTORY.any(axis=0).all()  # cold items have scores of their own
    for user in range(70):
        np.testing.assert_allclose(scores[user], expected[user] / expected[user].std(), atol=2e-4)
    alone = fit_content(dataset, (other,), rank=1000)
    assert alone.items.shape == (50, features[other].values.shape[1])
    assert np.abs(alone.users @ alone.items.T - scores).max() > 0.1


def test_items_at_the_mean_are_like_nothing():
    values = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float16)
    values[10:20] = values[20:].mean(axis=0)  # as data sets fill gaps; the mean of all is another by rounding alone
    values[:10] = values[10]
    features = {"text": Modality(values, np.ones(50, np.bool_))}
    found = fit_content(dataclasses.replace(DATASET, features=features), ("text",), rank=6)
    assert not np.asarray(found.items[:20]).any()
    assert np.asarray(found.items[20:]).any(axis=1).all()


@pytest.mark.parametrize("most_dense", [3000, 3])
def test_few_columns_of_content_are_the_principal_ones(most_dense: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(linear, "_MOST_DENSE", most_dense)
    monkeypatch.setattr(linear, "_MORE_COLUMNS", 4)
    names = tuple(DATASET.features)
    few, all_ = (fit_content(DATASET, names, rank=rank) for rank in (6, 1000))
    assert few.items.shape == (50, 6)
    expected = np.linalg.svd(np.asarray(all_.items, np.float64), compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(np.asarray(few.items), compute_uv=False), expected[:6], rtol=1e-4)


def test_what_is_fitted_is_what_has_weight():
    def fitted(config: Config, modalities: tuple[str, ...] = ()) -> dict[str, LinearScores]:
        return fit_linear(DATASET, config, modalities)

    both = Config(regression_weight=0.1, walk_weight=0.2)
    assert set(fitted(both)) == {"regression", "walks"}
    assert not fitted(Config())
    content = Config(content_weight=0.1, content_rank=3)
    assert not fitted(content)
    assert fitted(content, tuple(DATASET.features))[CONTENT].items.shape == (50, 3)
    set_ = Config(walk_weight=0.1, walk_rank=4, walk_length=2, walk_user_power=0.1, walk_item_power=0.9)
    expected = fit_walks(DATASET, rank=4, length=2, user_power=0.1, item_power=0.9)
    np.testing.assert_array_equal(fitted(set_)["walks"].users, expected.users)
    set_ = Config(regression_weight=0.1, regression_rank=4, regression_l2=7.0, regression_user_power=0.4)
    expected = fit_regression(DATASET, rank=4, l2=7.0, user_power=0.4)
    np.testing.assert_array_equal(fitted(set_)["regression"].users, expected.users)
    assert not fitted(dataclasses.replace(both, side_information=False))


def test_users_without_history_change_nothing():
    more = dataclasses.replace(DATASET, num_users=170, user_ids=np.array([f"u{i}" for i in range(170)]))
    for fit in (walks, lambda dataset: fit_regression(dataset, rank=9, l2=3.0, user_power=0.5)):
        one, other = fit(DATASET), fit(more)
        np.testing.assert_allclose(one.users @ one.items.T, other.users[:70] @ other.items.T, atol=1e-3)
        assert not np.asarray(other.users[70:]).any()


def test_popularity_is_the_logarithm_of_what_was_counted():
    cold = ColdItems(jnp.array([3]), jnp.array([[0, 1]]), jnp.array([[0.5, 0.5]]), jnp.array(49))
    train = DATASET.train[DATASET.train[:, 1] != 3]
    dataset = dataclasses.replace(DATASET, train=train, train_weights=np.full(len(train), 0.5, np.float32))
    found = linear.fit_popularity(dataset, cold=cold, cold_reach=1.0)
    scores = np.asarray(found.users @ found.items.T)
    assert scores.shape == (70, 50)
    assert (scores == scores[:1]).all()
    np.testing.assert_allclose(scores.std(axis=1), 1.0, atol=1e-5)
    expected = np.log1p(0.5 * np.bincount(train[:, 1], minlength=50))
    expected[3] = expected[[0, 1]].mean()
    warm = np.unique(train[:, 1])
    others = np.setdiff1d(np.arange(50), [*warm, 3])
    expected[others] = expected[warm].mean()
    assert np.corrcoef(scores[0], expected)[0, 1] == pytest.approx(1.0)


def test_where_all_items_tie_there_are_no_scores():
    everything = np.argwhere(np.ones((70, 50))).astype(DATASET.train.dtype)
    dataset = dataclasses.replace(DATASET, train=everything)
    assert not np.asarray(walks(dataset, rank=50).users).any()
    assert not np.asarray(walks(dataset, rank=1).users).any()


def test_a_history_of_few_items_leaves_the_other_columns_without_weight():
    dataset = dataclasses.replace(DATASET, train=DATASET.train[DATASET.train[:, 1] < 6])
    found = fit_regression(dataset, rank=30, l2=3.0, user_power=0.5)
    assert np.isfinite(found.users).all()
    assert np.isfinite(found.items).all()


def test_scores_are_the_sum_of_both():
    rng = np.random.default_rng(0)
    users, items = (jnp.asarray(rng.normal(size=(n, 6)).astype(np.float32)) for n in (70, 50))
    one, other = fit_regression(DATASET, rank=8, l2=3.0, user_power=0.5), walks(rank=5)
    joined = beside(users, items, {"walks": other, "regression": one}, {"regression": 0.2, "walks": 0.1})
    lengths = np.linalg.norm(users, axis=1, keepdims=True)
    added = 0.2 * np.asarray(one.users @ one.items.T) + 0.1 * np.asarray(other.users @ other.items.T)
    np.testing.assert_allclose(joined[0] @ joined[1].T, np.asarray(users @ items.T) + lengths * added, atol=1e-5)
    assert beside(users, items, {}, {}) == (users, items)


@pytest.mark.usefixtures("standard_promotion")
def test_what_is_evaluated_recommended_and_explained_has_it(tmp_path: Path):
    config = Config(
        dataset="synthetic:users=60,items=40,seed=1",
        width=8,
        epochs=2,
        correlation_start=1,
        regression_weight=0.5,
        regression_rank=10,
        regression_l2=5.0,
        walk_weight=0.3,
        walk_rank=7,
        content_weight=0.2,
        content_rank=4,
        popularity_weight=0.1,
    )
    result = train_and_evaluate(config, tmp_path / "with", progress="off")
    trained = load_trained(tmp_path / "with")
    found = evaluate_vectors(trained.encoded.ranked, ranking_task(trained.dataset, "test", config)).means()
    assert result["test"]["recall@20"] == pytest.approx(found["recall@20"])
    alone = evaluate_vectors(trained.encoded.final, ranking_task(trained.dataset, "test", config)).means()
    assert found["ndcg@20"] != alone["ndcg@20"]
    explained = explain(gather_evidence(trained), 3, 7)
    scores = np.asarray(trained.encoded.ranked.items) @ np.asarray(trained.encoded.ranked.users)[3]
    assert explained.score == pytest.approx(float(scores[7]), abs=1e-5)
    assert sum(view.score for view in explained.views) == pytest.approx(explained.score, abs=1e-4)
    assert [view.name for view in explained.views[-4:]] == [CONTENT, "popularity", "regression", "walks"]
    assert trained.encoded.ranked.items.shape == (40, 8 + 4 + 1 + 10 + 7)
    assert not dataclasses.replace(config, side_information=False).linear_weights()
