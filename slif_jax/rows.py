"""Rows of a CSR: laid out from pairs, and searched, many at once."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int


def csr_rows(pairs: np.ndarray, users: np.ndarray, num_users: int) -> tuple[np.ndarray, np.ndarray]:
    """The items of each of `users`, as a CSR with a row per entry of `users`.

    Args:
      pairs: `[n, 2]` user, item.
      users: `[m]` distinct, ascending user indices.
      num_users: U.

    Returns:
      `[m + 1]` row bounds and the items, ascending within a row, int32.
    """
    row_of = np.full(num_users, -1, np.int64)
    row_of[users] = np.arange(len(users))
    rows, items = row_of[pairs[:, 0]], pairs[:, 1]
    keep = rows >= 0
    rows, items = rows[keep], items[keep]
    order = np.lexsort((items, rows))
    indptr = np.zeros(len(users) + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=len(users)), out=indptr[1:])
    return indptr, items[order].astype(np.int32)


def upper_bound(
    values: Int[Array, " n"], start: Int[Array, "b m"], end: Int[Array, "b m"], query: Int[Array, "b m"]
) -> Int[Array, "b m"]:
    """The first position whose value is greater than the query.

    Args:
      values: `[n]`, ascending within each row.
      start: `[B, M]` first position of the row to search.
      end: `[B, M]` position after its last.
      query: `[B, M]`.

    Returns:
      `[B, M]` positions between `start` and `end`.
    """
    num_values = values.shape[0]
    if num_values == 0:
        return start

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        open_ = low < high
        right = open_ & (values[jnp.clip(middle, 0, num_values - 1)] <= query)
        return jnp.where(right, middle + 1, low), jnp.where(open_ & ~right, middle, high)

    return jax.lax.fori_loop(0, num_values.bit_length(), halve, (start, end))[0]


def contains(
    values: Int[Array, " n"], start: Int[Array, " b"], end: Int[Array, " b"], query: Int[Array, "b m"]
) -> Array:
    """Whether each query stands in its row.

    Args:
      values: `[n]`, ascending within each row.
      start: `[B]` first position of each row.
      end: `[B]` position after its last.
      query: `[B, M]`.

    Returns:
      `[B, M]` bool.
    """
    if values.shape[0] == 0:
        return jnp.zeros(query.shape, bool)
    begin = jnp.broadcast_to(start[:, None], query.shape)
    after = upper_bound(values, begin, jnp.broadcast_to(end[:, None], query.shape), query)
    return (after > begin) & (values[jnp.maximum(after - 1, 0)] == query)
