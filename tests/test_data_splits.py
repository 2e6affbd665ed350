"""Splits and filters: by hand, and the rules that hold for any data."""

from pathlib import Path

import numpy as np
import pytest
from data_battery import quietly, shop
from hypothesis import given, settings
from hypothesis import strategies as st

from slif_jax.data import DataError, findings, load, splits
from slif_jax.data.raw import SPLIT_RULES

ROWS = ["userID\titemID\trating\ttimestamp"]
# User 0 has five interactions, user 1 three, user 2 two, user 3 one; times rise against the numbers of the items.
ROWS += [
    f"{user}\t{item}\t{1 + item}\t{100 - 10 * item + user}" for user, n in enumerate((5, 3, 2, 1)) for item in range(n)
]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "a.inter").write_text("\n".join(ROWS) + "\n")
    return tmp_path


def held_out(data) -> tuple[list, list]:
    return data.valid.tolist(), data.test.tolist()


def test_leave_one_out_takes_the_last_ones(folder):
    data = load(folder, split="leave_one_out")
    # The latest item has the lowest number: it is test, the one before it valid; of two, only test is taken.
    assert held_out(data) == ([[0, 1], [1, 1]], [[0, 0], [1, 0], [2, 0]])


def test_time_user(folder):
    assert held_out(load(folder, split="time_user")) == ([[0, 1], [1, 1]], [[0, 0], [1, 0], [2, 0]])


def test_time_global(folder):
    data = load(folder, split="time_global")
    # Of 11 interactions the ninth is at 101, the tenth at 102: train up to there, the last one is test.
    assert held_out(data) == ([[2, 0]], [[3, 0]])
    assert len(data.train) == 9


def test_equal_times_stay_together():
    times = np.array([5.0] * 8 + [6.0] * 3)
    np.testing.assert_array_equal(splits.split_at_times(times), [0] * 8 + [1] * 0 + [0] * 3)
    times = np.arange(10.0)
    np.testing.assert_array_equal(splits.split_at_times(times), [0] * 8 + [1, 2])


def test_ratio_is_seeded_and_apart(folder):
    first, again = load(folder, split="ratio"), load(folder)
    assert first.split_fingerprint == again.split_fingerprint  # no labels: auto is ratio
    different = {load(folder, split_seed=seed).split_fingerprint for seed in range(6)}
    assert len(different) > 1
    degrees = np.bincount(first.train[:, 0])
    np.testing.assert_array_equal(degrees, [3, 1, 1, 1])


def test_min_rating_and_k_core(folder):
    data = load(folder, min_rating=2)
    # Item 0 is rated 1: user 3 has nothing left, item 0 neither.
    assert data.user_ids.tolist() == ["0", "1", "2"]
    assert data.item_ids.tolist() == ["1", "2", "3", "4"]
    data = load(folder, k_core=2)
    # Items 3 and 4 go, then user 3; then everybody has two.
    assert data.user_ids.tolist() == ["0", "1", "2"]
    assert data.item_ids.tolist() == ["0", "1", "2"]
    with findings.collect() as notes:
        load(folder, k_core=2, min_rating=1)
    assert [note.count for note in notes if note.kind == "filtered"] == [3]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"k_core": 4}, ": no users and items are left by `k_core` 4; use a smaller one."),
        ({"min_rating": 9}, ": no interaction is rated 9 or more."),
        ({"split": "given"}, ": the data bring no split; choose another one than 'given'."),
        ({"split": "often"}, f"`split` must be one of {', '.join(SPLIT_RULES)}: got 'often'."),
        ({"k_core": -1}, "`k_core` must be at least 0: got -1."),
    ],
)
def test_wrong_selections(folder, options, expected):
    with pytest.raises(DataError) as caught:
        load(folder, **options)
    assert str(caught.value).endswith(expected)


def test_what_data_without_times_or_ratings_cannot_give():
    for options, word in (({"split": "time_user"}, "times"), ({"min_rating": 3}, "ratings")):
        with pytest.raises(DataError, match=f"needs {word}, and the data have none"):
            quietly(shop("kgat"), **options)
    assert len(quietly(shop("kgat"), split="leave_one_out").test) == 12  # without times the last one is drawn


@pytest.mark.parametrize("name", ["native", "recbole", "kgat"])
def test_filters_keep_features_and_graph_with_their_items(name):
    whole, core = quietly(shop(name)), quietly(shop(name), k_core=5)
    assert 0 < core.num_items < whole.num_items
    assert core.num_users < whole.num_users
    old = [whole.item_ids.tolist().index(item) for item in core.item_ids.tolist()]
    for modality in core.features:
        one, other = core.features[modality], whole.features[modality]
        np.testing.assert_array_equal(one.present, other.present[old])
        np.testing.assert_array_equal(one.values, other.values[old])
    # Items that left are other entities now: no triple is lost, and the ends have their old names.
    assert len(core.triples) == len(whole.triples)
    assert core.num_entities == whole.num_entities - 1  # the item that left was in no triple
    assert core.entity_names is not None
    assert whole.entity_names is not None
    named = {entity for entity in whole.entity_names.tolist() if entity.startswith("m.")}
    assert named <= set(core.entity_names[core.num_items :].tolist())


def test_other_splits_of_the_built_in_data_sets():
    first = load("synthetic", split="ratio", split_seed=1)
    again = load("synthetic", split="ratio", split_seed=1)
    assert first.split_fingerprint == again.split_fingerprint != load("synthetic").split_fingerprint
    assert load("synthetic", split="given").fingerprint == load("synthetic").fingerprint
    core = load("synthetic", k_core=8)
    pairs = np.concatenate(list(core.splits.values()))
    assert min(np.bincount(pairs[:, 0]).min(), np.bincount(pairs[:, 1]).min()) >= 8


@settings(max_examples=60, deadline=None)
@given(
    degrees=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    seed=st.integers(0, 2**32 - 1),
    alone=st.booleans(),
    timed=st.booleans(),
)
def test_every_user_keeps_training_items(degrees, seed, alone, timed):
    counts = np.array(degrees)
    users = np.repeat(np.arange(len(counts)), counts)
    rng = np.random.default_rng(seed)
    times = rng.integers(0, 5, len(users)).astype(np.float64) if timed else None
    by_time = splits.split_by_time(rng, users, times, counts, leave_one_out=alone)
    by_share = splits.split_by_sorting(rng, users, counts)
    share = np.maximum(1, np.rint(0.1 * counts)).astype(int)
    for parts, size in ((by_time, np.ones_like(share) if alone else share), (by_share, share)):
        found = [np.bincount(users[parts == part], minlength=len(counts)) for part in range(3)]
        assert (found[0] >= 1).all()
        np.testing.assert_array_equal(found[1], np.where(counts >= 3, size, 0))
        np.testing.assert_array_equal(found[2], np.where(counts >= 2, size, 0))
    if times is not None:
        for user in range(len(counts)):
            own = users == user
            latest = [times[own & (by_time == part)] for part in range(3)]
            assert latest[0].max() <= latest[2].min(initial=np.inf)
            assert latest[1].max(initial=-np.inf) <= latest[2].min(initial=np.inf)


@settings(max_examples=60, deadline=None)
@given(pairs=st.sets(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1), k=st.integers(1, 6))
def test_k_core_is_the_largest(pairs, k):
    users, items = np.array(sorted(pairs)).T
    kept = splits.k_core(users, items, k)
    rest = {tuple(pair) for pair in np.array(sorted(pairs)).tolist()}
    while True:  # the same by sets
        fine = {
            (user, item)
            for user, item in rest
            if sum(u == user for u, _ in rest) >= k and sum(i == item for _, i in rest) >= k
        }
        if fine == rest:
            break
        rest = fine
    assert set(zip(users[kept].tolist(), items[kept].tolist(), strict=True)) == rest
