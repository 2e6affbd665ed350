"""Splits interactions into train, valid and test, and filters them: all on arrays sorted by user, then item.

Per user, `max(1, round(0.1 n))` of n interactions go to test and as many to valid; of two, one goes to test; of one,
none. Everything that is drawn comes from the generator that is passed in: the split has a seed of its own.
"""

import numpy as np


def holdout_sizes(degrees: np.ndarray) -> np.ndarray:
    """Returns `max(1, round(0.1 n))` for each number of interactions n; as many go to valid, and as many to test."""
    return np.maximum(1, np.rint(0.1 * degrees)).astype(np.int64)


def split_by_permutation(rng: np.random.Generator, degrees: np.ndarray) -> np.ndarray:
    """Splits each user's interactions by one permutation per user, users in order.

    n is the number of interactions. The numbers drawn depend on the degrees only, so a published split can be repeated.

    Args:
      rng: consumed, one permutation per user.
      degrees: `[users]` interactions of each user, at least 3; the interactions stand user by user.

    Returns:
      `[n]` int8: 0 train, 1 valid, 2 test.
    """
    splits = np.zeros(int(degrees.sum()), np.int8)
    start = 0
    for degree, held_out in zip(degrees.tolist(), holdout_sizes(degrees).tolist(), strict=True):
        order = start + rng.permutation(degree)
        splits[order[:held_out]] = 1
        splits[order[held_out : 2 * held_out]] = 2
        start += degree
    return splits


def split_by_sorting(rng: np.random.Generator, users: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Splits like `split_by_permutation`, for any number of users at once (and with other random numbers).

    n is the number of interactions.

    Args:
      rng: consumed, one number per interaction.
      users: `[n]` ascending.
      degrees: `[users]` interactions of each user.

    Returns:
      `[n]` int8: 0 train, 1 valid, 2 test.
    """
    # A user's number in the high bits and a random one in the low bits: one sort shuffles every user's interactions.
    keys = (users.astype(np.int64) << 32) | rng.integers(0, 1 << 32, len(users), dtype=np.int64)
    rank = np.argsort(keys, kind="stable") - np.repeat(np.cumsum(degrees) - degrees, degrees)
    valid, test = (np.repeat(size, degrees) for size in _sizes(degrees, holdout_sizes(degrees)))
    return np.where(rank < valid, 1, np.where(rank < valid + test, 2, 0)).astype(np.int8)


def split_by_time(
    rng: np.random.Generator, users: np.ndarray, times: np.ndarray | None, degrees: np.ndarray, *, leave_one_out: bool
) -> np.ndarray:
    """Splits each user's interactions in the order of their times: the last ones are test, those before them valid.

    n is the number of interactions.

    Args:
      rng: consumed, one number per interaction; it decides between equal times.
      users: `[n]` ascending.
      times: `[n]`; None leaves the order to chance.
      degrees: `[users]` interactions of each user.
      leave_one_out: one interaction each for valid and test, instead of a share.

    Returns:
      `[n]` int8: 0 train, 1 valid, 2 test.
    """
    chance = rng.random(len(users))
    order = np.lexsort((chance, users) if times is None else (chance, times, users))
    left = np.empty(len(users), np.int64)  # how many of the user's interactions come later
    left[order] = np.repeat(np.cumsum(degrees), degrees) - 1 - np.arange(len(users))
    sizes = np.ones(len(degrees), np.int64) if leave_one_out else holdout_sizes(degrees)
    valid, test = (np.repeat(size, degrees) for size in _sizes(degrees, sizes))
    return np.where(left < test, 2, np.where(left < test + valid, 1, 0)).astype(np.int8)


def split_at_times(times: np.ndarray) -> np.ndarray:
    """Splits at two moments for everybody: about the first 80 % of all interactions are train, the next 10 % valid.

    n is the number of interactions. Interactions of the same time stay together, so no training interaction is later
    than one of valid, and none of valid later than one of test.

    Args:
      times: `[n]`.

    Returns:
      `[n]` int8: 0 train, 1 valid, 2 test.
    """
    ends = [max(0, int(np.ceil(share * len(times))) - 1) for share in (0.8, 0.9)]
    first, second = np.partition(times, ends)[ends]
    return np.where(times <= first, 0, np.where(times <= second, 1, 2)).astype(np.int8)


def k_core(users: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Finds the interactions among users and items that all have at least k of them.

    n is the number of interactions.

    Args:
      users: `[n]` codes without large gaps.
      items: `[n]` likewise.
      k: the least number.

    Returns:
      `[n]` bool: the largest such set, perhaps empty.
    """
    kept = np.ones(len(users), np.bool_)
    while kept.any():
        enough = [np.bincount(ids[kept], minlength=int(ids.max()) + 1) >= k for ids in (users, items)]
        rest = kept & enough[0][users] & enough[1][items]
        if (rest == kept).all():
            break
        kept = rest
    return kept


def _sizes(degrees: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many interactions of each user go to valid and to test, where few are there."""
    return np.where(degrees >= 3, wanted, 0), np.where(degrees >= 2, wanted, 0)
