"""Splits interactions per user: 80 % train, 10 % valid, 10 % test, at least one of each held-out kind."""

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
      degrees: `[users]` interactions of each user, at least 3.

    Returns:
      `[n]` int8: 0 train, 1 valid, 2 test.
    """
    # A user's number in the high bits and a random one in the low bits: one sort shuffles every user's interactions.
    keys = (users.astype(np.int64) << 32) | rng.integers(0, 1 << 32, len(users), dtype=np.int64)
    rank = np.argsort(keys, kind="stable") - np.repeat(np.cumsum(degrees) - degrees, degrees)
    held_out = np.repeat(holdout_sizes(degrees), degrees)
    return np.where(rank < held_out, 1, np.where(rank < 2 * held_out, 2, 0)).astype(np.int8)
