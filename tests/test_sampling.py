"""Batches and negatives: exactly uniform over what a user does not have, and never anything else; orders are random."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from slif_jax import sampling
from slif_jax.data import Dataset

# Users 0 to 4: some items, none, all, all but item 3, the last ones.
LISTS = ([0, 2, 5], [], [0, 1, 2, 3, 4, 5], [0, 1, 2, 4, 5], [4, 5])
NUM_ITEMS = 6
USERS = np.arange(5, dtype=np.int32)

draw_negatives = jax.jit(sampling.sample_negatives, static_argnames="num_negatives")
draw_batch = jax.jit(sampling.sample_batch, static_argnames=("num_negatives", "shared"))
draw_triples = jax.jit(sampling.sample_triples, static_argnames=("num_triples", "num_entities", "batch_size"))


def make_dataset(lists, num_items=NUM_ITEMS):
    none, nothing = np.zeros((0, 2), np.int32), np.zeros((0, 3), np.int32)
    pairs = np.array([(u, i) for u, items in enumerate(lists) for i in sorted(items)], np.int32).reshape(-1, 2)
    users, items = np.arange(len(lists)).astype(np.str_), np.arange(num_items).astype(np.str_)
    return Dataset("lists", len(lists), num_items, num_items, 0, pairs, none, none, nothing, {}, users, items)


def on_host(tree):
    return jax.tree.map(
        lambda x: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x), tree
    )


def chi_square(counts):
    expected = np.sum(counts) / len(counts)
    return float(np.sum((counts - expected) ** 2) / expected)


# Exceeded once in 10,000 times by chance, by degrees of freedom.
CHI_SQUARE_LIMIT = {1: 15.1, 2: 18.4, 3: 21.1, 4: 23.5, 5: 25.7, 6: 27.9, 15: 44.3}


@pytest.fixture(scope="module")
def data():
    return sampling.interactions_for_sampling(make_dataset(LISTS))


def test_layout_on_paper(data):
    np.testing.assert_array_equal(data.users, [0] * 3 + [2] * 6 + [3] * 5 + [4] * 2)
    np.testing.assert_array_equal(data.items, [0, 2, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2, 4, 5, 4, 5])
    np.testing.assert_array_equal(data.indptr, [0, 3, 3, 9, 14, 16])
    np.testing.assert_array_equal(data.gaps, [0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 4, 4])
    np.testing.assert_array_equal(data.pool, range(6))
    assert data.weights is None
    assert {array.dtype for array in data[:5]} == {np.dtype(np.int32)}


@pytest.fixture(scope="module")
def drawn(data):
    """4000 negatives of each user."""
    return on_host(draw_negatives(jax.random.key(3), data, USERS, num_negatives=4000))


def test_negatives_are_uniform_over_the_rest(drawn):
    negatives, possible = drawn
    np.testing.assert_array_equal(possible, [True, True, False, True, True])
    for user in (0, 1, 3, 4):
        rest = sorted(set(range(NUM_ITEMS)) - set(LISTS[user]))
        counts = np.bincount(negatives[user], minlength=NUM_ITEMS)
        assert counts[LISTS[user]].sum() == 0
        assert counts.sum() == 4000
        if len(rest) > 1:
            assert chi_square(counts[rest]) < CHI_SQUARE_LIMIT[len(rest) - 1]
    assert ((negatives >= 0) & (negatives < NUM_ITEMS)).all()  # even the meaningless ones of user 2 may be looked up


def test_one_negative_tells_nothing_about_the_next(drawn):
    pairs = drawn[0][4].reshape(-1, 2)
    counts = np.zeros((4, 4))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    assert chi_square(counts.reshape(-1)) < CHI_SQUARE_LIMIT[15]


@settings(max_examples=15, deadline=None)
@given(cells=st.sets(st.integers(0, 29), min_size=16, max_size=16), seed=st.integers(0, 2**31 - 1))
def test_negatives_are_never_positives_and_reach_everything_else(cells, seed):
    lists = [sorted(cell % 6 for cell in cells if cell // 6 == user) for user in range(5)]
    data = sampling.interactions_for_sampling(make_dataset(lists))
    drawn, possible = on_host(draw_negatives(jax.random.key(seed), data, USERS, num_negatives=4000))
    warm = {item for items in lists for item in items}
    for user, items in enumerate(lists):
        assert bool(possible[user]) == (len(items) < len(warm))
        if possible[user]:
            assert set(drawn[user].tolist()) == warm - set(items)


def test_batch_takes_its_examples_and_weighs_padding_nothing(data):
    index = np.array([1, 3, 15, -1, 9], np.int32)
    batch = on_host(draw_batch(jax.random.key(0), data, index, num_negatives=8))
    np.testing.assert_array_equal(batch.users[:3], [0, 2, 4])
    np.testing.assert_array_equal(batch.positives[:3], [2, 0, 5])
    np.testing.assert_array_equal(batch.weight, [1, 0, 1, 0, 1])  # user 2 has every item
    assert batch.negatives.shape == (5, 8)
    for row in (0, 2, 4):
        assert not set(batch.negatives[row].tolist()) & set(LISTS[int(batch.users[row])])


def test_a_key_fixes_the_batch(data):
    def negatives(seed):
        return np.asarray(draw_batch(jax.random.key(seed), data, USERS, num_negatives=8).negatives)

    np.testing.assert_array_equal(negatives(0), negatives(0))
    assert (negatives(0)[0] != negatives(1)[0]).any()


def orders(num_examples, seeds):
    """`[seeds, n]`, an order for each seed."""
    draw = jax.vmap(lambda seed: sampling.shuffled(jax.random.key(seed), jnp.arange(num_examples), num_examples))
    return np.asarray(jax.jit(draw)(jnp.arange(seeds)))


@pytest.mark.parametrize("num_examples", [*range(1, 20), 35, 36, 37, 255, 256, 257, 4096, 10_007, 1_690_000])
def test_an_order_has_every_example_once(num_examples):
    for order in orders(num_examples, 4 if num_examples < 10**6 else 1):
        np.testing.assert_array_equal(np.sort(order), np.arange(num_examples))


def test_the_largest_order():
    n = 2**31 - 1
    places = jnp.concatenate([jnp.arange(50_000), jnp.arange(n - 50_000, n)])
    found = np.asarray(sampling.shuffled(jax.random.key(0), places, n))
    assert len(set(found.tolist())) == len(places)
    assert (found >= 0).all()
    assert (found < n).all()
    assert chi_square(np.bincount(found // (n // 16 + 1), minlength=16)) < CHI_SQUARE_LIMIT[15]
    for wrong in (0, 2**31):
        with pytest.raises(ValueError, match="1 to 2147483647 examples"):
            sampling.shuffled(jax.random.key(0), places, wrong)


@pytest.mark.parametrize("num_examples", [2, 3, 4])
def test_all_orders_of_a_few_examples_are_equally_likely(num_examples):
    drawn = orders(num_examples, 6000)
    codes, counts = np.unique(drawn @ num_examples ** np.arange(num_examples), return_counts=True)
    assert len(codes) == math.factorial(num_examples)
    assert chi_square(counts) < chi2.isf(1e-4, len(codes) - 1)


@pytest.mark.parametrize(("num_examples", "places"), [(16, (0, 1)), (31, (7, 30)), (37, (17, 18))])
def test_two_places_of_an_order_tell_nothing_about_each_other(num_examples, places):
    pairs = np.zeros((num_examples, num_examples))
    np.add.at(pairs, tuple(orders(num_examples, 30_000)[:, place] for place in places), 1)
    assert not np.diag(pairs).any()
    counts = pairs[~np.eye(num_examples, dtype=bool)]
    assert chi_square(counts) < chi2.isf(1e-4, len(counts) - 1)
    for each in (pairs.sum(axis=0), pairs.sum(axis=1)):
        assert chi_square(each) < chi2.isf(1e-4, num_examples - 1)


def test_an_order_of_many_examples_looks_random():
    n, size = 40_009, 1024
    first, second = orders(n, 2)
    limit = 4 / np.sqrt(n)  # four standard errors of a correlation
    for order in (first, second):
        assert np.abs(order - np.arange(n)).mean() == pytest.approx(n / 3, rel=0.02)
        for lag in (1, 2, 201, size):  # 201: a side of the network's rectangle
            assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < limit
        assert np.sum(np.abs(np.diff(order)) == 1) < 12  # two are expected
        # Every batch is spread evenly over the users: the interactions are sorted by them.
        for batch in order[: n // size * size].reshape(-1, size):
            assert chi_square(np.bincount(batch * 16 // n, minlength=16)) < chi2.isf(1e-5, 15)
    assert abs(np.corrcoef(first, second)[0, 1]) < limit
    again = len(np.intersect1d(first[:size], second[:size]))
    assert again == pytest.approx(size**2 / n, abs=20)  # 26 in the same batch of both epochs, by chance


@pytest.mark.parametrize(("examples", "size", "steps"), [(0, 4, 0), (8, 4, 2), (9, 4, 3)])
def test_an_epoch_shows_every_example_once(examples, size, steps):
    assert sampling.num_steps(examples, size) == steps
    draw = functools.partial(sampling.examples_of_step, jax.random.key(0), num_examples=examples, batch_size=size)
    flat = np.asarray(jax.jit(jax.vmap(draw))(jnp.arange(steps + 1))).reshape(-1)
    assert flat.shape == ((steps + 1) * size,)
    assert sorted(flat[:examples]) == list(range(examples))
    assert (flat[examples:] == -1).all()


def test_the_last_batch_of_the_longest_epoch():
    n, size = 2**31 - 1, 3 * 2**20
    last = sampling.num_steps(n, size) - 1
    index = np.asarray(sampling.examples_of_step(jax.random.key(0), jnp.int32(last), num_examples=n, batch_size=size))
    assert np.sum(index >= 0) == n - last * size
    assert (index[n - last * size :] == -1).all()


def test_the_order_of_an_epoch_is_random_but_fixed_by_its_key():
    first, again, other = (np.asarray(sampling.shuffled(jax.random.key(seed), jnp.arange(9), 9)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first != np.arange(9)).any()


def test_exact_negatives_need_the_gaps():
    data = sampling.interactions_for_sampling(make_dataset(LISTS), exact_negatives=False)
    assert data.gaps is None
    draw_batch(jax.random.key(0), data, USERS, num_negatives=4, shared=True)
    with pytest.raises(ValueError, match="exact_negatives=True"):
        draw_batch(jax.random.key(0), data, USERS, num_negatives=4)


def test_triples_are_true_ones_with_uniform_tails():
    triples = np.array([[0, 0, 5], [0, 1, 6], [3, 0, 6]], np.int32)
    batch = on_host(draw_triples(jax.random.key(0), triples, num_triples=3, num_entities=7, batch_size=6000))
    rows = np.stack([batch.heads, batch.relations, batch.tails], axis=1)
    which = np.argmax((rows[:, None, :] == triples[None]).all(axis=2), axis=1)
    np.testing.assert_array_equal(rows, triples[which])
    picked, tails = np.bincount(which, minlength=3), np.bincount(batch.corrupted_tails, minlength=7)
    assert len(tails) == 7
    assert chi_square(picked) < CHI_SQUARE_LIMIT[2]
    assert chi_square(tails) < CHI_SQUARE_LIMIT[6]
    of_first = np.bincount(batch.corrupted_tails[which == 0], minlength=7)
    assert chi_square(of_first) < CHI_SQUARE_LIMIT[6]  # the corruption does not depend on the triple


def test_shared_negatives_are_the_same_for_all_and_uniform_over_warm_items():
    data = sampling.interactions_for_sampling(make_dataset(([0, 2], [2, 5]), num_items=7))  # items 1, 3, 4, 6 are cold
    batch = on_host(draw_batch(jax.random.key(0), data, np.array([0, 3, -1]), num_negatives=3000, shared=True))
    assert batch.negatives.shape == (1, 3000)
    np.testing.assert_array_equal(batch.weight, [1, 1, 0])
    counts = np.bincount(batch.negatives[0], minlength=7)
    assert not counts[[1, 3, 4, 6]].any()
    assert chi_square(counts[[0, 2, 5]]) < CHI_SQUARE_LIMIT[2]


def test_the_samplers_take_what_is_on_the_host():
    data = sampling.interactions_for_sampling(make_dataset(LISTS))
    assert isinstance(data.users, np.ndarray)
    index = jnp.array([0, 1, -1])
    plain = sampling.sample_batch(jax.random.key(0), data, index, num_negatives=2)
    jitted = jax.jit(lambda index: sampling.sample_batch(jax.random.key(0), data, index, num_negatives=2))(index)
    np.testing.assert_array_equal(plain.negatives, jitted.negatives)
