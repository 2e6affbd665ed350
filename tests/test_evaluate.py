"""Full ranking under `strict`, against a slow version with sets and a stable sort; others: test_protocols.py."""

import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax.config import Config
from slif_jax.data import Dataset, validate
from slif_jax.evaluate import evaluate_vectors, ranking_task
from slif_jax.metrics import metric_names
from slif_jax.model import Vectors
from slif_jax.rows import csr_rows

NUM_USERS, NUM_ITEMS = 7, 9
TOPK = (1, 3, 20)  # the last one is more than there are items


def pairs(*lists):
    return np.array([(u, i) for u, items in enumerate(lists) for i in items], np.int32).reshape(-1, 2)


def make_dataset(train, valid, test, num_users=NUM_USERS, num_items=NUM_ITEMS):
    users, items = np.arange(num_users).astype(np.str_), np.arange(num_items).astype(np.str_)
    no_triples = np.zeros((0, 3), np.int32)
    return validate(Dataset("t", num_users, num_items, num_items, 0, train, valid, test, no_triples, {}, users, items))


@pytest.fixture(scope="module")
def dataset():
    """User 2 has no train, 3 every item but one, 4 nothing to find in valid, 5 nothing at all, 6 nothing to find."""
    return make_dataset(
        pairs([0, 1], [8], [], [0, 1, 2, 3, 4, 5, 6, 7], [2, 3], [], [5]),
        pairs([2, 7], [0, 3], [4, 5], [8]),
        pairs([3], [1, 2, 4], [0, 1], [], [6]),
    )


def vectors(seed):
    """Small integers: exact scores, many ties."""
    rng = np.random.default_rng(seed)
    return rng.integers(-2, 3, (NUM_USERS, 2)).astype(np.float32), rng.integers(-2, 3, (NUM_ITEMS, 2)).astype(
        np.float32
    )


def run(users, items, dataset, split, block=3):
    config = Config(topk=TOPK, eval_block=block)
    task = ranking_task(dataset, split, config)
    return evaluate_vectors(Vectors(jnp.asarray(users), jnp.asarray(items)), task)


def items_of(part, user):
    return set(part[part[:, 0] == user, 1].tolist())


def slow_metrics(ranked, relevant, k):
    hits = [item in relevant for item in ranked[:k]]
    ranks = np.flatnonzero(hits) + 1
    best = min(len(relevant), k)
    return [
        len(ranks) / len(relevant),
        np.sum(1 / np.log2(ranks + 1)) / np.sum(1 / np.log2(np.arange(best) + 2)),
        len(ranks) / k,
        float(len(ranks) > 0),
        sum((place + 1) / rank for place, rank in enumerate(ranks)) / best,
        1 / ranks[0] if len(ranks) else 0.0,
    ]


def slow(users, items, dataset, split):
    relevant_part = dataset.splits[split]
    found, values = [], []
    for user in range(dataset.num_users):
        relevant = items_of(relevant_part, user)
        if not relevant:
            continue
        seen = items_of(dataset.train, user) | (items_of(dataset.valid, user) if split == "test" else set())
        scores = items @ users[user]
        ranked = sorted(set(range(dataset.num_items)) - seen, key=lambda item, scores=scores: (-scores[item], item))
        found.append(user)
        values.append(np.transpose([slow_metrics(ranked, relevant, k) for k in TOPK]).reshape(-1))
    return found, np.array(values)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_strict_protocol(dataset, split):
    for seed in range(3):
        users, items = vectors(seed)
        got = run(users, items, dataset, split)
        want_users, want = slow(users, items, dataset, split)
        np.testing.assert_array_equal(got.users, want_users)
        np.testing.assert_allclose(got.values, want, rtol=1e-12, atol=1e-15)
        assert got.names == metric_names(TOPK)
        np.testing.assert_array_equal(got.has_history, np.isin(got.users, dataset.train[:, 0]))


def test_means_are_over_users_with_history_and_the_others_are_told_apart(dataset):
    users, items = vectors(0)
    got = run(users, items, dataset, "valid")
    want_users, want = slow(users, items, dataset, "valid")
    assert want_users == [0, 1, 2, 3]
    np.testing.assert_allclose(list(got.means().values()), want[[0, 1, 3]].mean(axis=0), rtol=1e-12, atol=1e-15)
    cold = got.cold_user_means()
    assert (~got.has_history).sum() == 1
    np.testing.assert_allclose(list(cold.values()), want[2], rtol=1e-12, atol=1e-15)
    assert tuple(cold) == tuple(got.means()) == metric_names(TOPK)


def test_a_list_of_equal_scores_is_in_the_order_of_the_items(dataset):
    got = run(np.ones((NUM_USERS, 2), np.float32), np.ones((NUM_ITEMS, 2), np.float32), dataset, "valid")
    mrr = got.values[:, got.names.index("mrr@20")]
    # User 0 sees 2, 3, ...; user 1 sees 0; user 2 sees 0 to 3 first; user 3 sees only 8.
    np.testing.assert_allclose(mrr, [1, 1, 1 / 5, 1], rtol=1e-12)


def test_validation_items_are_masked_at_test_alone(dataset):
    # Item 2 is user 0's best; it counts in valid, and in test makes room for item 3.
    users, items = np.ones((NUM_USERS, 2), np.float32), np.zeros((NUM_ITEMS, 2), np.float32)
    items[[0, 2, 7, 3], 0] = [4, 3, 2, 1]
    for split in ("valid", "test"):
        got = run(users, items, dataset, split)
        np.testing.assert_allclose(got.values[0, got.names.index("ndcg@3")], 1.0, rtol=1e-12)


@pytest.mark.parametrize("block", [1, 50])
def test_blocks_do_not_matter(dataset, block):
    users, items = vectors(1)
    want, got = run(users, items, dataset, "test"), run(users, items, dataset, "test", block)
    np.testing.assert_array_equal(got.users, want.users)
    np.testing.assert_allclose(got.values, want.values, rtol=1e-12)


def test_names_of_items_do_not_matter(dataset):
    rng = np.random.default_rng(5)
    users, items = (rng.normal(size=(n, 2)).astype(np.float32) for n in (NUM_USERS, NUM_ITEMS))
    new = rng.permutation(NUM_ITEMS)
    parts = []
    for part in dataset.splits.values():
        renamed = np.stack([part[:, 0], new[part[:, 1]]], axis=1).astype(np.int32)
        parts.append(renamed[np.lexsort((renamed[:, 1], renamed[:, 0]))])
    moved = np.empty_like(items)
    moved[new] = items
    got = run(users, moved, make_dataset(*parts), "test")
    np.testing.assert_allclose(got.values, run(users, items, dataset, "test").values, rtol=1e-12)


def test_a_user_whose_vector_is_not_a_number_finds_nothing(dataset):
    users, items = vectors(0)
    users[1] = np.nan
    got = run(users, items, dataset, "valid")
    np.testing.assert_array_equal(got.values[1], 0.0)
    np.testing.assert_allclose(got.values[[0, 2, 3]], slow(*vectors(0), dataset, "valid")[1][[0, 2, 3]], rtol=1e-12)


def test_an_empty_split_has_no_users_and_zero_means():
    none = pairs()
    got = run(*vectors(0), make_dataset(pairs([0], [1]), none, none), "test")
    assert got.values.shape == (0, len(got.names))
    assert set(got.means().values()) == {0.0}
    assert len(got.has_history) == 0


def test_splits_are_named(dataset):
    with pytest.raises(ValueError, match="`split` must be one of valid, test: got 'train'"):
        ranking_task(dataset, "train", Config())


def test_tasks_are_padded_to_whole_blocks_with_rows_of_nothing(dataset):
    task = ranking_task(dataset, "valid", Config(eval_block=3)).arrays
    np.testing.assert_array_equal(task.users, [0, 1, 2, 3, 0, 0])
    np.testing.assert_array_equal(task.relevant_indptr, [0, 2, 4, 6, 7, 7, 7])
    np.testing.assert_array_equal(task.relevant, [2, 7, 0, 3, 4, 5, 8])
    np.testing.assert_array_equal(task.seen_indptr, [0, 2, 3, 3, 11, 11, 11])


def test_rows_of_chosen_users():
    unsorted = np.array([[3, 5], [1, 2], [3, 0], [0, 7], [1, 1]], np.int32)
    indptr, items = csr_rows(unsorted, np.array([1, 2, 3]), 5)
    np.testing.assert_array_equal(indptr, [0, 2, 2, 4])
    np.testing.assert_array_equal(items, [1, 2, 0, 5])
    assert indptr.dtype == items.dtype == np.int32
    indptr, items = csr_rows(unsorted, np.zeros(0, np.int64), 5)
    np.testing.assert_array_equal(indptr, [0])
    assert items.shape == (0,)
