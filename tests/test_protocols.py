"""The presets against protocol_rules.py, a second implementation that shares nothing with the library."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from protocol_rules import RULES

from slif_jax import data
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.evaluate import Evaluation, evaluate_scores, evaluate_vectors, ranking_task
from slif_jax.model import Vectors
from slif_jax.protocols import PROTOCOLS, Protocol

FOLDER = Path(__file__).parent / "fixtures" / "protocols"
CUT_OFFS = (1, 5, 10, 20, 50)
CONFIG = Config(topk=CUT_OFFS, eval_block=32)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return data.load(str(FOLDER))


@pytest.fixture(scope="module")
def scores(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Item cosine on train, in steps of 1/1024: sums of these are exact in any order and precision, and ties abound."""
    history = np.zeros((dataset.num_users, dataset.num_items))
    history[dataset.train[:, 0], dataset.train[:, 1]] = 1.0
    norm = np.maximum(np.sqrt(history.sum(axis=0)), 1.0)
    cosine = np.round(1024 * (history.T @ history) / (norm[:, None] * norm[None, :])) / 1024
    np.fill_diagonal(cosine, 0.0)
    return history, cosine


def measure(
    dataset: Dataset, scores: tuple[np.ndarray, np.ndarray], part: str, protocol: Protocol, candidates=None
) -> Evaluation:
    vectors = Vectors(*(jnp.asarray(x.astype(np.float32)) for x in scores))
    task = ranking_task(dataset, part, CONFIG, protocol=protocol, candidates=candidates)
    return evaluate_vectors(vectors, task)


def rows(pairs: np.ndarray) -> list[tuple[int, int]]:
    return [(user, item) for user, item in pairs.tolist()]


def expect(dataset: Dataset, scores: tuple[np.ndarray, np.ndarray], part: str, name: str):
    history, cosine = scores
    parts = (rows(dataset.train), rows(dataset.valid), rows(dataset.test))
    return RULES[name]((history @ cosine).tolist(), *parts, part, CUT_OFFS)


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_preset_gives_the_numbers_of_its_rules(dataset: Dataset, scores, name: str, part: str):
    got = measure(dataset, scores, part, PROTOCOLS[name])
    per_user, means = expect(dataset, scores, part, name)
    assert got.users[got.counted].tolist() == list(per_user)
    for metric, value in means.items():
        np.testing.assert_allclose(got.means()[metric], value, rtol=0, atol=1e-9, err_msg=metric)
        column = got.values[got.counted, got.names.index(metric)]
        wanted = [values[metric] for values in per_user.values()]
        np.testing.assert_allclose(column, wanted, rtol=0, atol=1e-9, err_msg=metric)


def test_the_same_scores_differ_by_protocol(dataset: Dataset, scores):
    got = {name: measure(dataset, scores, "test", protocol).means() for name, protocol in PROTOCOLS.items()}
    for metric, differing in (("ndcg@20", 4), ("recall@20", 4)):
        assert len({values[metric] for values in got.values()}) == differing, metric
    assert got["mmrec"]["recall@20"] == round(got["mmrec"]["recall@20"], 4)
    assert got["strict"]["recall@20"] != round(got["strict"]["recall@20"], 4)


@pytest.mark.parametrize("name", ["mmrec", "recbole"])
def test_repeated_rows_and_overlapping_splits(dataset: Dataset, scores, name: str):
    """The readers drop both; a data set made by hand can hold them, and then the rules tell them apart."""
    user = 10
    known = dataset.train[dataset.train[:, 0] == user][:3]
    twice = dataset.test[dataset.test[:, 0] == user][:2]
    test = np.concatenate([dataset.test, twice, known])
    changed = dataclasses.replace(dataset, test=test[np.lexsort((test[:, 1], test[:, 0]))])
    got, plain = (measure(which, scores, "test", PROTOCOLS[name]) for which in (changed, dataset))
    per_user, _ = expect(changed, scores, "test", name)
    row = got.users.tolist().index(user)
    for metric, value in per_user[user].items():
        np.testing.assert_allclose(got.values[row, got.names.index(metric)], value, rtol=0, atol=1e-9, err_msg=metric)
    assert got.values[row, got.names.index("recall@50")] != plain.values[row, plain.names.index("recall@50")]


def test_candidates_and_ties(dataset: Dataset, scores):
    history, cosine = scores
    table = history @ cosine
    warm = np.unique(dataset.train[:, 1])
    listed = np.array([3, 120, 7, 129, 50, 7])
    for protocol, wanted, given in (
        (Protocol("x", candidates="train"), warm, None),
        (Protocol("x", candidates="train", ties="higher"), warm[::-1], None),
        (Protocol("x", ties="higher"), np.arange(dataset.num_items)[::-1], None),
        (Protocol("x", ties="shuffled"), np.random.default_rng(0).permutation(dataset.num_items), None),
        (Protocol("x", candidates="listed"), np.unique(listed), listed),
    ):
        got = measure(dataset, scores, "test", protocol, given)
        for row, user in enumerate(got.users.tolist()):
            seen = {item for part in (dataset.train, dataset.valid) for item in part[part[:, 0] == user, 1].tolist()}
            relevant = set(dataset.test[dataset.test[:, 0] == user, 1].tolist())
            open_items = [item for item in wanted.tolist() if item not in seen]
            ranked = sorted(open_items, key=lambda item, user=user: -table[user, item])[:50]  # a stable sort
            hits = [item in relevant for item in ranked] + [False] * (50 - len(ranked))
            assert (got.hits[row] > 0).tolist() == hits


@pytest.mark.parametrize(
    ("protocol", "candidates", "words"),
    [
        (Protocol("x"), np.array([1]), "they are 'all'"),
        (Protocol("x", candidates="listed"), None, "they are 'listed'"),
        (Protocol("x", candidates="listed"), np.array([5, 130]), "from 0 to 129: got 5 to 130"),
        (Protocol("x", candidates="listed"), np.zeros(0, np.int64), "from 0 to 129: got none"),
    ],
)
def test_candidates_must_fit_the_protocol(dataset: Dataset, protocol: Protocol, candidates, words: str):
    with pytest.raises(ValueError, match=words):
        ranking_task(dataset, "test", CONFIG, protocol=protocol, candidates=candidates)


def test_a_changed_preset_says_what_was_changed():
    assert {protocol.label() for protocol in PROTOCOLS.values()} == set(PROTOCOLS)
    assert Config(protocol="kgat").rules() == PROTOCOLS["kgat"]
    config = Config(protocol="mmrec", patience=5, select_on="ndcg@10")
    assert config.rules().label() == "mmrec with patience=5, select_on=ndcg@10"
    assert config.rules().changes() == {"patience": 5, "select_on": "ndcg@10"}


def test_a_new_best():
    assert not PROTOCOLS["mmrec"].better(0.5, 0.5)
    assert PROTOCOLS["recbole"].better(0.5, 0.5)
    assert not PROTOCOLS["recbole"].better(0.4, 0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": "test"}, "`mask` must be one of train, train[+]valid: got 'test'"),
        ({"ideal": "best"}, "`ideal` must be one of reachable, found: got 'best'"),
        ({"patience": 0}, "`patience` must be at least 1: got 0"),
        ({"select_part": "train"}, "`select_part` must be one of valid, test"),
    ],
)
def test_rules_are_checked(change: dict, words: str):
    with pytest.raises(ValueError, match=words):
        Protocol("x", **change)


@pytest.mark.parametrize(
    "protocol", [*PROTOCOLS, Protocol("mine", candidates="train", ties="higher"), Protocol("mine", candidates="listed")]
)
def test_scores_of_any_model_give_what_their_vectors_give(dataset: Dataset, scores, protocol: str | Protocol):
    rules = PROTOCOLS[protocol] if isinstance(protocol, str) else protocol
    listed = np.arange(3, dataset.num_items, 2) if rules.candidates == "listed" else None
    matrix, sizes = scores[0] @ scores[1], []

    def score(users: np.ndarray) -> np.ndarray:
        sizes.append(len(users))
        return matrix[users]

    got = evaluate_scores(score, dataset, "test", protocol=protocol, topk=CUT_OFFS, block=32, candidates=listed)
    want = measure(dataset, scores, "test", rules, candidates=listed)
    np.testing.assert_array_equal(got.hits, want.hits)
    np.testing.assert_array_equal(got.values, want.values)
    assert got.means() == want.means()
    assert set(sizes) == {32}


def test_a_score_that_is_no_number_is_never_listed(dataset: Dataset):
    relevant = np.zeros((dataset.num_users, dataset.num_items), bool)
    relevant[dataset.test[:, 0], dataset.test[:, 1]] = True
    everything = (dataset.num_items,)
    for worst in (np.nan, -np.inf):
        scores = jnp.where(relevant, worst, 0.0)
        found = evaluate_scores(lambda users, scores=scores: scores[users], dataset, "test", topk=everything)
        assert not found.hits.any()
    signs = np.where(np.arange(dataset.num_items) % 2, 0.0, -0.0)  # all equal: the lower id first, whatever the sign
    signed, plain = (
        evaluate_scores(lambda users, row=row: np.tile(row, (len(users), 1)), dataset, "test").hits
        for row in (signs, np.zeros(dataset.num_items))
    )
    np.testing.assert_array_equal(signed, plain)
    assert plain.any()


def test_scores_must_fit_the_data_and_the_protocol_must_be_known(dataset: Dataset):
    with pytest.raises(ValueError, match=r"per item, 60 x 130, .*: got shape \(60, 3\)"):
        evaluate_scores(lambda users: np.zeros((len(users), 3)), dataset, "test")
    with pytest.raises(ValueError, match=r"Unknown protocol 'lenient'\. Known: strict, "):
        evaluate_scores(lambda users: np.zeros((len(users), 3)), dataset, "test", protocol="lenient")
    for wrong in (np.zeros((60, 130), np.complex64), np.full((60, 130), "1")):
        with pytest.raises(ValueError, match="must give real numbers: got dtype"):
            evaluate_scores(lambda users, wrong=wrong: wrong[users], dataset, "test")


def test_large_integers_are_scores_too(dataset: Dataset):
    scores = np.zeros((dataset.num_users, dataset.num_items), np.int64)
    scores[dataset.test[:, 0], dataset.test[:, 1]] = 3_000_000_000  # beyond int32
    found = evaluate_scores(lambda users: scores[users], dataset, "test", topk=(20,)).means()
    ideal = evaluate_scores(lambda users: scores[users] / 3e9, dataset, "test", topk=(20,)).means()
    assert found == ideal
    assert found["recall@20"] > 0.9
