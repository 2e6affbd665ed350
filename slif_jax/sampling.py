"""Batches, negatives and corrupted triples, drawn on the device from keys that depend on the step alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from slif_jax.data import Dataset
from slif_jax.data.checks import validated
from slif_jax.rows import upper_bound


class Interactions(NamedTuple):
    """The training interactions, laid out for exact sampling of negatives.

    n is the number of interactions. Row u of the CSR holds user u's items in ascending order.
    """

    users: Int[Array, " n"]
    items: Int[Array, " n"]
    indptr: Int[Array, " users_plus_1"]
    gaps: Int[Array, " n"]
    """Place of item j of a user's sorted list in `pool`, minus j: how many items below it are *not* the user's."""
    pool: Int[Array, " w"]
    """The items with training interactions, ascending: a cold item is nobody's negative, or it would only sink."""


class Batch(NamedTuple):
    """One step's examples. b is the batch size, n the number of negatives; m is b, or 1 where the batch shares them."""

    users: Int[Array, " b"]
    positives: Int[Array, " b"]
    negatives: Int[Array, "m n"]
    rng: PRNGKeyArray
    """For what else is random in the loss of these examples."""
    weight: Float[Array, " b"]
    """0 for padding and for users without a possible negative, else 1."""


class TripleBatch(NamedTuple):
    """Triples and corrupted tails. b is the number of triples."""

    heads: Int[Array, " b"]
    relations: Int[Array, " b"]
    tails: Int[Array, " b"]
    corrupted_tails: Int[Array, " b"]


def interactions_for_sampling(dataset: Dataset) -> Interactions:
    """Lays out `dataset.train`, sorted by user and item, for `sample_batch`.

    Args:
      dataset: loaded data.

    Returns:
      `Interactions` on the default device.

    Raises:
      DataError: if the data break a rule of `Dataset`, such as that of the order.
    """
    users, items = validated(dataset).train.T
    indptr = np.zeros(dataset.num_users + 1, np.int32)
    np.cumsum(np.bincount(users, minlength=dataset.num_users), out=indptr[1:])
    position = np.arange(len(users), dtype=np.int32) - indptr[users]
    is_warm = np.bincount(items, minlength=dataset.num_items) > 0
    place = np.cumsum(is_warm, dtype=np.int32) - 1
    pool = np.flatnonzero(is_warm).astype(np.int32)
    arrays = (users, items, indptr, place[items] - position, pool)
    return Interactions(*(jnp.asarray(array) for array in arrays))


def num_steps(num_examples: int, batch_size: int) -> int:
    """Steps of an epoch; the last batch is padded."""
    return -(-num_examples // batch_size)


@jax.named_scope("sampling")
def epoch_order(rng: PRNGKeyArray, num_examples: int, batch_size: int) -> Int[Array, "steps batch"]:
    """A random order of the examples, cut into batches.

    Args:
      rng: key of the epoch.
      num_examples: n. Static.
      batch_size: B. Static.

    Returns:
      `[steps, B]` indices; the end of the last batch is filled with -1.
    """
    order = jax.random.permutation(rng, num_examples)
    padding = num_steps(num_examples, batch_size) * batch_size - num_examples
    return jnp.pad(order, (0, padding), constant_values=-1).reshape(-1, batch_size)


def sample_negatives(
    rng: PRNGKeyArray, data: Interactions, users: Int[Array, " b"], *, num_negatives: int
) -> tuple[Int[Array, "b n"], Bool[Array, " b"]]:
    """Uniform warm items that are not in the users' training lists, without rejection.

    A rank r among the items the user does not have is drawn, and turned into an item by one binary search: its place in
    the pool is r plus the number of the user's items that come before it.

    Args:
      rng: key.
      data: training interactions.
      users: `[B]` user ids.
      num_negatives: N. Static.

    Returns:
      `[B, N]` item ids, and `[B]` whether the user has any such item (else the ids are meaningless).
    """
    start, end = data.indptr[users], data.indptr[users + 1]
    num_items = data.pool.shape[0]
    open_items = num_items - (end - start)
    possible = open_items > 0
    rank = jax.random.randint(
        rng, (users.shape[0], num_negatives), 0, jnp.maximum(open_items, 1)[:, None], dtype=jnp.int32
    )
    begin = jnp.broadcast_to(start[:, None], rank.shape)
    below = upper_bound(data.gaps, begin, jnp.broadcast_to(end[:, None], rank.shape), rank) - begin
    return data.pool[jnp.minimum(rank + below, num_items - 1)], possible


@jax.named_scope("sampling")
def sample_batch(
    rng: PRNGKeyArray, data: Interactions, index: Int[Array, " b"], *, num_negatives: int, shared: bool = False
) -> Batch:
    """The examples at `index` with fresh negatives.

    Args:
      rng: key of the step.
      data: training interactions.
      index: `[B]` positions in the training interactions, -1 for padding.
      num_negatives: N. Static.
      shared: False draws N for each example, none of them a training item of its user; True draws the same N warm items
        for all, uniformly, whoever has them. Static.

    Returns:
      A `Batch` of B examples.
    """
    rng, loss_rng = jax.random.split(rng)
    real = index >= 0
    safe = jnp.maximum(index, 0)
    users, positives = data.users[safe], data.items[safe]
    if shared:
        drawn = jax.random.randint(rng, (1, num_negatives), 0, data.pool.shape[0], dtype=jnp.int32)
        return Batch(users, positives, data.pool[drawn], loss_rng, real.astype(jnp.float32))
    negatives, possible = sample_negatives(rng, data, users, num_negatives=num_negatives)
    return Batch(users, positives, negatives, loss_rng, (real & possible).astype(jnp.float32))


@jax.named_scope("sampling")
def sample_triples(rng: PRNGKeyArray, triples: Int[Array, "t 3"], *, num_entities: int, batch_size: int) -> TripleBatch:
    """Triples with uniformly corrupted tails.

    Args:
      rng: key of the step.
      triples: `[T, 3]` head, relation, tail.
      num_entities: E. Static.
      batch_size: B. Static.

    Returns:
      A `TripleBatch`. A corrupted tail may by chance be a true one, as in KGAT.
    """
    pick, corrupt = jax.random.split(rng)
    chosen = triples[jax.random.randint(pick, (batch_size,), 0, triples.shape[0])]
    corrupted = jax.random.randint(corrupt, (batch_size,), 0, num_entities)
    return TripleBatch(chosen[:, 0], chosen[:, 1], chosen[:, 2], corrupted)
