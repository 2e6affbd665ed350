"""Ranking metrics against the formulas, one user and one rank at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slif_jax.metrics import METRIC_NAMES, metric_names, ranking_metrics

TOPK = (1, 2, 3, 5, 20)


def measure(hits, num_relevant, topk=TOPK, **options):
    return ranking_metrics(np.array(hits, bool), np.array(num_relevant, np.int64), topk, **options)


def by_name(values, topk=TOPK):
    return dict(zip(metric_names(topk), np.transpose(values), strict=True))


def slow(hits, relevant, k):
    """The six metrics of one list, straight from their definitions."""
    if relevant == 0:
        return [0.0] * 6
    ranks = [rank for rank, hit in enumerate(hits, start=1) if hit and rank <= k]
    gain = sum(1 / np.log2(rank + 1) for rank in ranks)
    ideal = sum(1 / np.log2(rank + 1) for rank in range(1, min(relevant, k) + 1))
    precisions = sum(place / rank for place, rank in enumerate(ranks, start=1))
    return [
        len(ranks) / relevant,
        gain / ideal,
        len(ranks) / k,
        float(bool(ranks)),
        precisions / min(relevant, k),
        1 / ranks[0] if ranks else 0.0,
    ]


def test_names_are_the_columns():
    assert metric_names((5, 20)) == tuple(f"{name}@{k}" for name in METRIC_NAMES for k in (5, 20))
    assert METRIC_NAMES == ("recall", "ndcg", "precision", "hit", "map", "mrr")
    assert measure([[True]], [1]).shape == (1, 6 * len(TOPK))


def test_one_list_on_paper():
    # Hits at ranks 2 and 3, four relevant items.
    value = by_name(measure([[0, 1, 1, 0, 0, 0]], [4]))
    log3, third = 1 / np.log2(3), 0.5
    want = {
        "recall@1": 0,
        "recall@2": 1 / 4,
        "recall@3": 2 / 4,
        "recall@20": 2 / 4,
        "precision@3": 2 / 3,
        "precision@5": 2 / 5,
        "precision@20": 2 / 20,
        "hit@1": 0,
        "hit@2": 1,
        "mrr@1": 0,
        "mrr@2": 1 / 2,
        "mrr@20": 1 / 2,
        "map@3": (1 / 2 + 2 / 3) / 3,
        "map@5": (1 / 2 + 2 / 3) / 4,
        "ndcg@2": log3 / (1 + log3),
        "ndcg@3": (log3 + third) / (1 + log3 + third),
        "ndcg@20": (log3 + third) / (1 + log3 + third + 1 / np.log2(5)),
    }
    for name, number in want.items():
        np.testing.assert_allclose(value[name], [number], rtol=1e-12, err_msg=name)


@settings(max_examples=40, deadline=None)
@given(
    hits=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=4, max_size=4),
    missed=st.lists(st.integers(0, 30), min_size=4, max_size=4),
)
def test_any_lists(hits, missed):
    relevant = [sum(row) + more for row, more in zip(hits, missed, strict=True)]
    got = measure(hits, relevant)
    for row, count, values in zip(hits, relevant, got, strict=True):
        want = np.array([slow(row, count, k) for k in TOPK])  # [topk, metrics]
        np.testing.assert_allclose(values.reshape(6, -1).T, want, rtol=1e-12, atol=1e-15)
    assert ((got >= 0) & (got <= 1 + 1e-12)).all()
    for name in ("recall", "hit", "mrr"):  # more places, more found
        columns = np.stack([by_name(got)[f"{name}@{k}"] for k in TOPK])
        assert (np.diff(columns, axis=0) >= 0).all()


def test_a_perfect_list_scores_one():
    value = by_name(measure([[1, 1, 1, 0, 0, 0]], [3]))
    for name in ("ndcg", "map", "hit", "mrr"):
        for k in TOPK:
            np.testing.assert_allclose(value[f"{name}@{k}"], [1.0], rtol=1e-12)
    np.testing.assert_allclose([value["recall@3"], value["precision@3"]], 1.0)


def test_a_user_without_relevant_items_gets_zeros_even_for_stray_hits():
    got = measure([[0] * 6, [1, 0, 0, 0, 0, 0], [1] * 6, [1] * 6], [0, 0, 0, 6])
    np.testing.assert_array_equal(got[:3], 0.0)
    assert (got[3] > 0).all()


def test_a_list_shorter_than_the_cut_off_goes_on_without_hits():
    short = np.array([[0, 1], [1, 1], [0, 0], [1, 0]])
    relevant = [2, 9, 3, 1]
    np.testing.assert_array_equal(measure(short, relevant), measure(np.pad(short, ((0, 0), (0, 4))), relevant))


def test_users_are_measured_apart():
    hits, relevant = np.random.default_rng(0).random((4, 6)) < 0.4, np.array([7, 6, 9, 8])
    order = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(measure(hits[order], relevant[order]), measure(hits, relevant)[order])


def test_cut_offs_do_not_touch_each_other():
    topk = (20, 1)
    hits, relevant = [[0, 1, 1, 0, 1, 0]], [4]
    every, some = by_name(measure(hits, relevant)), by_name(measure(hits, relevant, topk), topk)
    for name, value in some.items():
        np.testing.assert_allclose(value, every[name], rtol=1e-12)


def test_no_users():
    assert measure(np.zeros((0, 6)), [], (5,)).shape == (0, 6)


def test_the_ideal_from_the_hits_found():
    # Hits at ranks 2 and 5; the ideal of K = 3 holds two hits although only one is within K.
    value = by_name(measure([[0, 1, 0, 0, 1, 0]], [9], ideal="found"))
    log3 = 1 / np.log2(3)
    np.testing.assert_allclose(value["ndcg@1"], [0.0])
    np.testing.assert_allclose(value["ndcg@3"], [log3 / (1 + log3)], rtol=1e-12)
    np.testing.assert_allclose(value["ndcg@20"], [(log3 + 1 / np.log2(6)) / (1 + log3)], rtol=1e-12)
    np.testing.assert_array_equal(measure([[0] * 6], [3], ideal="found"), 0.0)
    with pytest.raises(ValueError, match="`ideal` must be one of reachable, found: got 'best'"):
        measure([[0] * 6], [3], ideal="best")
