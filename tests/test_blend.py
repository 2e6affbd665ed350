"""What linear models weigh: the likelihood, against a slow one, and what a training leaves of it."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from slif_jax import blend
from slif_jax.blend import Lists, score_lists, tune_weights, tuning_task
from slif_jax.config import Config
from slif_jax.data import load
from slif_jax.data.write import write
from slif_jax.evaluate import evaluate_vectors, ranking_task
from slif_jax.linear import LinearScores
from slif_jax.model import Vectors
from slif_jax.recommend import load_trained
from slif_jax.train import train_and_evaluate

SMALL = Config(
    dataset="synthetic:users=160,items=60,seed=4",
    width=8,
    epochs=3,
    correlation_start=1,
    walk_weight=0.02,
    walk_rank=5,
    popularity_weight=0.02,
)


def made_lists(seed: int, users: int, truth: tuple[float, ...], listed: int = 40) -> Lists:
    """Lists in which hits were drawn by a softmax of known weights; some have gaps at their end."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(users, listed, len(truth))) * np.array([0.1, *[1.0] * (len(truth) - 1)])
    chosen = np.argmax(scores @ (np.array(truth) / 0.05) + rng.gumbel(size=(users, listed)), axis=1)
    hits = np.zeros((users, listed), bool)
    hits[np.arange(users), chosen] = True
    shown = np.arange(listed) < rng.integers(listed // 2, listed + 1, users)[:, None]
    scores[~shown] = 1e9  # whatever stands there must not count
    return Lists(scores, hits & shown, shown)


@pytest.fixture
def few_tell(monkeypatch: pytest.MonkeyPatch):
    """So that slow computations may do with few users."""
    monkeypatch.setattr(blend, "_LEAST_USERS", 1)


def test_known_weights_are_found():
    lists = made_lists(0, 4000, (1.0, 0.05, 0.0, 0.2))
    found = tune_weights(lists, np.array([0.01, 0.01, 0.01]))
    np.testing.assert_allclose(found, [0.05, 0.0, 0.2], atol=0.01)


@pytest.mark.usefixtures("few_tell")
def test_the_likelihood_is_that_of_a_softmax_over_each_list():
    lists = made_lists(1, 60, (1.0, 0.1, 0.03), listed=12)
    hits = np.asarray(lists.hits).copy()
    hits[:20, 0] |= np.asarray(lists.listed)[:20, 0]  # several hits count as one together
    lists = lists._replace(hits=hits)
    shown = np.asarray(lists.listed)
    told = hits.any(axis=1)

    def slow(theta: np.ndarray) -> float:
        total = 0.0
        for user in np.flatnonzero(told):
            logits = np.asarray(lists.scores)[user][shown[user]] @ theta
            total += np.mean((logits - special.logsumexp(logits))[hits[user][shown[user]]])
        return -total

    best = optimize.minimize(slow, [10.0, 1.0, 1.0], method="L-BFGS-B", bounds=[(1e-3, None), (0, None), (0, None)]).x
    share = told.sum() / (told.sum() + 100)
    for given in (np.zeros(2), np.array([0.5, 0.7])):
        expected = share * best[1:] / best[0] + (1 - share) * given
        np.testing.assert_allclose(tune_weights(lists, given), expected, rtol=2e-3)


def test_a_model_that_is_wrong_weighs_nothing():
    lists = made_lists(5, 1000, (1.0, -0.1))
    told = np.asarray(lists.hits).any(axis=1).sum()
    assert tune_weights(lists, np.array([0.3])) == pytest.approx(0.3 * 100 / (told + 100))


def test_few_users_change_nothing():
    lists, given = made_lists(6, 400, (1.0, 0.1)), np.array([0.3])
    told = np.flatnonzero(np.asarray(lists.hits).any(axis=1))
    few = jax.tree.map(lambda x: np.asarray(x)[told[:99]], lists)
    np.testing.assert_array_equal(tune_weights(few, given), given)
    enough = jax.tree.map(lambda x: np.asarray(x)[told[:100]], lists)
    assert tune_weights(enough, given)[0] < 0.3


@pytest.mark.usefixtures("few_tell")
def test_where_nothing_is_said_the_weights_stay():
    lists, given = made_lists(2, 30, (1.0, 0.1)), np.array([0.3])
    nobody = np.zeros_like(lists.hits)
    np.testing.assert_array_equal(tune_weights(lists._replace(hits=nobody), given), given)
    np.testing.assert_array_equal(tune_weights(lists._replace(hits=np.asarray(lists.listed)), given), given)
    flat = np.asarray(lists.scores).copy()
    flat[:, :, 1] = 2.0
    np.testing.assert_array_equal(tune_weights(lists._replace(scores=flat), given), given)
    broken = np.asarray(lists.scores).copy()
    broken[3, 0, 0] = np.nan
    np.testing.assert_array_equal(tune_weights(lists._replace(scores=broken), given), given)


def test_vectors_that_say_nothing_leave_finite_weights():
    found = tune_weights(made_lists(3, 500, (0.0, 1.0, 0.5)), np.array([0.1, 0.1]))
    assert np.isfinite(found).all()
    # Scores of vectors spread by 0.1, those of models by 1: at least a twentieth leaves a ratio of 20 times 0.1.
    assert 0.1 < found[1] < found[0] < 2.1


@pytest.mark.parametrize("most_users", [4096, 20])
def test_lists_are_scored_by_each_part(most_users: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(blend, "MOST_USERS", most_users)
    monkeypatch.setattr(blend, "USERS_AT_ONCE", 16)
    monkeypatch.setattr(blend, "LISTED", 9)
    dataset = load(SMALL.dataset)
    task = tuning_task(dataset, SMALL)
    assert task is not None
    assert len(task.users) == min(most_users, len(np.unique(dataset.valid[:, 0])))
    rng = np.random.default_rng(0)
    own, items, model_users, model_items = (
        rng.normal(size=(n, d)).astype(np.float32) for n, d in ((160, 8), (60, 8), (160, 3), (60, 3))
    )
    lengths = np.linalg.norm(own, axis=1, keepdims=True)
    ranked = Vectors(
        jnp.asarray(np.concatenate([own, 0.5 * lengths * model_users], 1)),
        jnp.asarray(np.concatenate([items, model_items], 1)),
    )
    models = {"walks": LinearScores(jnp.asarray(model_users), jnp.asarray(model_items))}
    found = score_lists(ranked, jnp.asarray(own), models, task.arrays, block=task.block)
    parts = np.stack([own / lengths @ items.T, model_users @ model_items.T], axis=2)
    for row, user in enumerate(task.users):
        total = parts[user] @ [1.0, 0.5]
        total[dataset.train[dataset.train[:, 0] == user, 1]] = -np.inf
        first = np.argsort(-total)[:9]
        np.testing.assert_allclose(found.scores[row], parts[user][first], atol=1e-5)
        relevant = dataset.valid[dataset.valid[:, 0] == user, 1]
        np.testing.assert_array_equal(found.hits[row], np.isin(first, relevant))
    assert np.asarray(found.listed)[: len(task.users)].all()
    monkeypatch.setattr(blend, "LISTED", 60)  # as many as there are items: lists end before that
    found = score_lists(ranked, jnp.asarray(own), models, task.arrays, block=task.block)
    unseen = 60 - np.bincount(dataset.train[:, 0], minlength=160)[task.users]
    np.testing.assert_array_equal(np.asarray(found.listed).sum(axis=1)[: len(task.users)], unseen)


def test_there_is_no_task_without_validation_or_models():
    dataset = load(SMALL.dataset)
    assert tuning_task(dataclasses.replace(dataset, valid=dataset.valid[:0]), SMALL) is None
    for off in ({"tune_linear_weights": False}, {"side_information": False}):
        assert tuning_task(dataset, dataclasses.replace(SMALL, **off)) is None
    assert tuning_task(dataset, dataclasses.replace(SMALL, walk_weight=0.0, popularity_weight=0.0)) is None


@pytest.mark.usefixtures("standard_promotion")
def test_a_training_tunes_keeps_and_serves_them(tmp_path: Path):
    result = train_and_evaluate(SMALL, tmp_path / "run", progress="off")
    assert set(result["linear_weights"]) == {"popularity", "walks"}
    trained = load_trained(tmp_path / "run")
    kept = np.asarray(trained.params["linear_weights"])
    np.testing.assert_allclose(kept, [*result["linear_weights"].values()], rtol=1e-4)
    assert not np.allclose(kept, 0.02)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    best = rows[result["best_epoch"] - 1]
    assert best["linear_weights"] == pytest.approx(result["linear_weights"], rel=1e-4)
    assert result["tuned_linear_weights"]
    assert trained.linear_weights() == pytest.approx(result["linear_weights"], rel=1e-4)
    found = evaluate_vectors(trained.encoded.ranked, ranking_task(trained.dataset, "valid", trained.config)).means()
    assert best["valid"] == pytest.approx(found, abs=1e-6)  # validation was ranked with the weights that were kept
    stays = dataclasses.replace(SMALL, tune_linear_weights=False)
    result = train_and_evaluate(stays, tmp_path / "given", progress="off")
    assert result["linear_weights"] == pytest.approx({"popularity": 0.02, "walks": 0.02})
    assert not result["tuned_linear_weights"]


@pytest.mark.usefixtures("standard_promotion")
def test_test_has_no_say(tmp_path: Path):
    dataset = load(SMALL.dataset)
    other = np.stack([dataset.test[:, 0], (dataset.test[:, 1] + 7) % dataset.num_items], axis=1)
    known = {*map(tuple, np.concatenate([dataset.train, dataset.valid]).tolist())}
    other = np.unique([pair for pair in other.tolist() if tuple(pair) not in known], axis=0).astype(np.int32)
    found = []
    for name, test in (("as it is", dataset.test), ("other", other)):
        write(dataclasses.replace(dataset, test=test), tmp_path / name, "native")
        config = dataclasses.replace(SMALL, dataset=str(tmp_path / name))
        found.append(train_and_evaluate(config, tmp_path / f"run {name}", progress="off"))
    assert found[0]["test"] != found[1]["test"]
    assert found[0]["linear_weights"] == found[1]["linear_weights"]
