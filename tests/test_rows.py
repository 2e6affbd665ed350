"""Binary search in CSR rows, against plain Python."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slif_jax import rows

upper_bound = jax.jit(rows.upper_bound)
contains = jax.jit(rows.contains)


def ints(values):
    return np.array(values, np.int32)


@pytest.mark.parametrize("length", [1, 2, 4, 7, 8])
def test_every_gap_of_one_row_is_found(length):
    values = 2 * np.arange(length) + 1
    query = np.arange(-1, 2 * length + 2)[None, :]
    zero = np.zeros_like(query)
    got = upper_bound(ints(values), ints(zero), ints(zero + length), ints(query))
    np.testing.assert_array_equal(got[0], np.searchsorted(values, query[0], side="right"))


def test_upper_bound_on_paper():
    values = [2, 5, 5, 9, 0, 3]  # rows [2, 5, 5, 9] and [0, 3]
    start, end = [[0, 0, 0], [4, 4, 4]], [[4, 4, 4], [6, 6, 6]]
    got = upper_bound(ints(values), ints(start), ints(end), ints([[5, 1, 9], [0, 9, -1]]))
    np.testing.assert_array_equal(got, [[3, 0, 4], [5, 6, 4]])


def test_an_empty_row_answers_its_own_start():
    got = upper_bound(ints([1, 2, 3]), ints([[0, 2, 3]]), ints([[0, 2, 3]]), ints([[9, -9, 2]]))
    np.testing.assert_array_equal(got, [[0, 2, 3]])
    assert not contains(ints([1, 2, 3]), ints([1]), ints([1]), ints([[1, 2, 3]])).any()


def test_no_values_at_all():
    nothing = ints([])
    np.testing.assert_array_equal(upper_bound(nothing, ints([[0]]), ints([[0]]), ints([[4]])), [[0]])
    found = contains(nothing, ints([0, 0]), ints([0, 0]), ints([[4, 0, -1], [1, 2, 3]]))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, np.zeros((2, 3), bool))


def test_neighbouring_rows_do_not_leak():
    # 3 ends the first row and 4 begins the last: neither is in the middle row.
    found = contains(ints([1, 3, 7, 4, 8]), ints([0, 2, 3]), ints([2, 3, 5]), ints([[3, 4]] * 3))
    np.testing.assert_array_equal(found, [[True, False], [False, False], [False, True]])


@settings(max_examples=25, deadline=None)
@given(
    table=st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=4, max_size=4),
    cuts=st.lists(st.integers(0, 12), min_size=3, max_size=3),
    query=st.lists(st.lists(st.integers(-1, 7), min_size=5, max_size=5), min_size=4, max_size=4),
)
def test_any_rows(table, cuts, query):
    bounds = [0, *sorted(cuts), 12]
    flat = [value for part in table for value in part]
    parts = [sorted(flat[a:b]) for a, b in itertools.pairwise(bounds)]
    values = ints([value for part in parts for value in part])
    start, end = np.array(bounds[:-1]), np.array(bounds[1:])
    found = contains(values, ints(start), ints(end), ints(query))
    np.testing.assert_array_equal(found, [[q in part for q in row] for part, row in zip(parts, query, strict=True)])
    wide = upper_bound(values, ints(np.tile(start[:, None], 5)), ints(np.tile(end[:, None], 5)), ints(query))
    want = [
        [first + sum(value <= q for value in part) for q in row]
        for first, part, row in zip(start, parts, query, strict=True)
    ]
    np.testing.assert_array_equal(wide, want)
