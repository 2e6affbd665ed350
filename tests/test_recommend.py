"""Top-n lists against a slow version, and restoring a run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import recommend
from slif_jax.checkpoint import Checkpoints, Progress
from slif_jax.config import Config
from slif_jax.data import Dataset, load
from slif_jax.graphs import build_graphs
from slif_jax.model import Encoded, Vectors, Views, make_model
from slif_jax.train_state import init_train_state
from slif_jax.workdir import Workdir, WorkdirError

NUM_USERS, NUM_ITEMS = 5, 6


def pairs(*lists):
    return np.array([(u, i) for u, items in enumerate(lists) for i in items], np.int32).reshape(-1, 2)


@pytest.fixture(scope="module")
def dataset():
    """User 1 has seen everything, user 3 nothing."""
    return Dataset(
        name="shop",
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        num_entities=NUM_ITEMS,
        num_relations=0,
        train=pairs([0, 1], [0, 1, 2, 3], [5], [], [2]),
        valid=pairs([2], [4], [0], [], [3]),
        test=pairs([3], [5], [], [], [4]),
        triples=np.zeros((0, 3), np.int32),
        features={},
        user_ids=np.array(["ann", "bob", "c 3", "007", "eve"]),
        item_ids=np.array([f"B{item}" for item in range(NUM_ITEMS)]),
        item_titles=np.array(["Tea", "", "Red\tcup", " Two\n lines ", "Café", "x"]),
    )


@pytest.fixture(scope="module")
def encoded():
    """Small integers: exact scores and ties."""
    rng = np.random.default_rng(0)
    users, items = (jnp.asarray(rng.integers(-2, 3, (n, 2)), jnp.float32) for n in (NUM_USERS, NUM_ITEMS))
    none_users, none_items, ones = jnp.zeros((NUM_USERS, 0)), jnp.zeros((NUM_ITEMS, 0)), jnp.ones(NUM_ITEMS)
    return Encoded(
        final := Vectors(users, items), Views(users, {}), Views(items, {}), none_users, none_items, ones, final
    )


def slow(encoded, seen, user, n):
    scores = np.asarray(encoded.final.items) @ np.asarray(encoded.final.users)[user]
    unseen = set(range(NUM_ITEMS)) - {item for u, item in seen.tolist() if u == user}
    ranked = sorted(unseen, key=lambda item: (-scores[item], item))[:n]
    missing = min(n, NUM_ITEMS) - len(ranked)
    return ranked + [-1] * missing, [scores[item] for item in ranked] + [-np.inf] * missing


@pytest.mark.parametrize("n", [2, 9])
def test_lists_are_the_best_unseen_items(n, encoded, dataset):
    users = np.arange(NUM_USERS)
    (block,) = recommend.top_n(encoded, dataset, users, n=n)
    np.testing.assert_array_equal(block.users, users)
    for user, items, scores in zip(*block, strict=True):
        want_items, want_scores = slow(encoded, recommend.known_items(dataset), user, n)
        np.testing.assert_array_equal(items, want_items)
        np.testing.assert_array_equal(scores, want_scores)
    assert (block.items[1] == -1).all()  # has seen everything
    assert (block.items[3] >= 0).sum() == min(n, NUM_ITEMS)


def test_blocks_are_parts_of_the_whole(encoded, dataset):
    users = np.array([0, 2, 3, 4])
    (whole,) = recommend.top_n(encoded, dataset, users, n=2)
    parts = list(recommend.top_n(encoded, dataset, users, n=2, block=3))
    assert [len(part.users) for part in parts] == [3, 1]
    for joined, want in zip(map(np.concatenate, zip(*parts, strict=True)), whole, strict=True):
        np.testing.assert_array_equal(joined, want)


def test_what_counts_as_seen_can_be_given(encoded, dataset):
    users = np.arange(NUM_USERS)
    for seen in (dataset.train, pairs()):
        (block,) = recommend.top_n(encoded, dataset, users, n=2, seen=seen)
        np.testing.assert_array_equal(block.items, [slow(encoded, seen, user, 2)[0] for user in users])


def test_no_users_give_no_blocks(encoded, dataset):
    assert list(recommend.top_n(encoded, dataset, np.zeros(0, np.int64), n=2)) == []


def test_known_items_are_those_of_every_split(dataset):
    known = recommend.known_items(dataset).tolist()
    assert len(known) == sum(len(part) for part in dataset.splits.values())
    assert sorted(map(tuple, known)) == sorted(
        tuple(pair) for part in dataset.splits.values() for pair in part.tolist()
    )


def test_the_train_profile_recommends_what_is_held_out(dataset):
    np.testing.assert_array_equal(recommend.known_items(dataset, "train"), dataset.train)
    with pytest.raises(ValueError, match=r"^`profile` must be 'train' or 'full': got 'valid'\.$"):
        recommend.known_items(dataset, "valid")


def test_candidates_are_the_only_items_recommended(encoded, dataset):
    users, candidates = np.array([0, 2, 3, 4]), np.array([1, 3, 5])
    (block,) = recommend.top_n(encoded, dataset, users, n=3, candidates=candidates)
    others = [(user, item) for user in users for item in (0, 2, 4)]
    seen = np.concatenate([recommend.known_items(dataset), others])
    for user, items, scores in zip(*block, strict=True):
        want_items, want_scores = slow(encoded, seen, user, 3)
        np.testing.assert_array_equal(items, want_items)
        np.testing.assert_array_equal(scores, want_scores)


@pytest.mark.parametrize("wrong", [[3, 1], [1, 1], [-1], [NUM_ITEMS]])
def test_candidates_that_are_no_items(encoded, dataset, wrong):
    with pytest.raises(ValueError, match=r"^`candidates` must be distinct, ascending and in \[0, 6\)\.$"):
        next(recommend.top_n(encoded, dataset, np.array([0]), n=1, candidates=np.array(wrong)))


# load_trained

CONFIG = Config(
    dataset="synthetic:users=8,items=8,clusters=2,degree=3,relations=0,modalities=none",
    side_information=False,
    width=4,
    interaction_layers=0,  # the final vectors are the embeddings
    correlation_neighbors=2,
    consistency_batch=2,
)


@pytest.fixture
def run(tmp_path):
    """A folder as a run leaves it before its first checkpoint."""
    folder = Workdir(tmp_path / "run")
    folder.open(CONFIG, resume="auto", data_fingerprint=load(CONFIG.dataset).fingerprint)
    return folder


def test_a_run_that_never_was(tmp_path):
    with pytest.raises(WorkdirError, match=r"holds no config\.json of a run\. Train first"):
        recommend.load_trained(tmp_path)


def test_a_run_without_a_checkpoint(run):
    with pytest.raises(WorkdirError, match=r"holds no checkpoint yet\. Train first"):
        recommend.load_trained(run.path)


def test_a_run_on_other_data(run):
    run.write_json("config.json", {**CONFIG.to_dict(), "data_fingerprint": "other"})
    with pytest.raises(WorkdirError, match="was trained on other data than 'synthetic:users=8"):
        recommend.load_trained(run.path)


def test_the_best_epoch_is_restored_not_the_last(run):
    data = load(CONFIG.dataset)
    graphs, model = build_graphs(data, CONFIG), make_model(data, CONFIG)
    state: Any = init_train_state(model, graphs, CONFIG)
    states = {}
    checkpoints = Checkpoints(run.checkpoints, CONFIG)
    for epoch, scale in ((1, 1.0), (2, -3.0)):
        params = jax.tree.map(lambda x, scale=scale: x * scale, state.params)
        states[epoch] = state.replace(epoch=jnp.asarray(epoch, jnp.int32), params=params, average=params)
        checkpoints.save(states[epoch], Progress(epoch=epoch, best_epoch=1, best_value=0.5))
    checkpoints.close()
    trained = recommend.load_trained(run.path)
    assert (trained.epoch, trained.config) == (1, CONFIG)
    assert trained.dataset.fingerprint == data.fingerprint
    np.testing.assert_allclose(trained.encoded.final.users, states[1].params["user_embedding"])
    items = np.asarray(states[1].params["item_embedding"])
    expected = items / np.linalg.norm(items, axis=1, keepdims=True)
    expected[np.bincount(data.train[:, 1], minlength=len(items)) == 0] = 0.0  # nothing is known of these
    np.testing.assert_allclose(trained.encoded.final.items, expected, rtol=1e-5)
    np.testing.assert_array_equal(trained.params["item_embedding"], states[1].params["item_embedding"])
    np.testing.assert_array_equal(trained.correlation.senders, states[1].correlation.senders)
