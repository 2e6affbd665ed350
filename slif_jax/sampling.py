"""Batches, negatives and corrupted triples, drawn on the device from keys that depend on the step alone."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Integer, PRNGKeyArray

from slif_jax.collectives import Axis, take_rows_everywhere
from slif_jax.data import Dataset
from slif_jax.data.checks import validated
from slif_jax.rows import upper_bound


class Interactions(NamedTuple):
    """The training interactions, by user and item.

    n is the number of interactions; on a mesh, of those that a device holds of `users`, `items` and `weights`. Row u of
    the CSR holds user u's items in ascending order.
    """

    users: Int[Array, " n"]
    items: Int[Array, " n"]
    indptr: Int[Array, " users_plus_1"]
    gaps: Int[Array, " n"] | None
    """Place of item j of a user's sorted list in `pool`, minus j: how many items below it are *not* the user's. Only
    exact negatives need it, and then all of it on every device; else None."""
    pool: Int[Array, " w"]
    """The items with training interactions, ascending: a cold item is nobody's negative, or it would only sink."""
    weights: Float[Array, " n"] | None
    """How much each interaction counts; None: all alike."""


class Batch(NamedTuple):
    """One step's examples. b is the batch size, n the number of negatives; m is b, or 1 where the batch shares them."""

    users: Int[Array, " b"]
    positives: Int[Array, " b"]
    negatives: Int[Array, "m n"]
    rng: PRNGKeyArray
    """For what else is random in the loss of these examples."""
    weight: Float[Array, " b"]
    """0 for padding and for users without a possible negative, else 1 or that of the interaction."""


class TripleBatch(NamedTuple):
    """Triples and corrupted tails. b is the number of triples."""

    heads: Int[Array, " b"]
    relations: Int[Array, " b"]
    tails: Int[Array, " b"]
    corrupted_tails: Int[Array, " b"]


def interactions_for_sampling(dataset: Dataset, *, exact_negatives: bool = True) -> Interactions:
    """Lays out `dataset.train`, sorted by user and item, for `sample_batch`.

    Args:
      dataset: loaded data.
      exact_negatives: whether `sample_negatives` will be asked; batches with shared negatives do without `gaps`.

    Returns:
      `Interactions`, as NumPy arrays on the host.

    Raises:
      DataError: if the data break a rule of `Dataset`, such as that of the order.
    """
    users, items = validated(dataset).train.T
    indptr = np.zeros(dataset.num_users + 1, np.int32)
    np.cumsum(np.bincount(users, minlength=dataset.num_users), out=indptr[1:])
    is_warm = np.bincount(items, minlength=dataset.num_items) > 0
    gaps = None
    if exact_negatives:
        place = np.cumsum(is_warm, dtype=np.int32) - 1
        gaps = place[items] - (np.arange(len(users), dtype=np.int32) - indptr[users])
    pool = np.flatnonzero(is_warm).astype(np.int32)
    arrays: tuple[Any, ...] = (users, items, indptr, gaps, pool, dataset.train_weights)
    return Interactions(*arrays)


def num_steps(num_examples: int, batch_size: int) -> int:
    """Steps of an epoch; the last batch is padded."""
    return -(-num_examples // batch_size)


_ROUNDS = 10  # as many as FF1 of NIST SP 800-38G has


def shuffled(rng: PRNGKeyArray, positions: Integer[Array, " b"], num_examples: int) -> Int[Array, " b"]:
    """The examples that stand at some places of a random order of all examples; the order itself is never made.

    A Feistel network of the numbers below a x b >= n, seen as pairs: the halves take turns in being moved round by a
    hash of the other half, so that whatever the hash, different numbers stay different. A number that comes out at n
    or above goes in again until it is below ("cycle walking"): what remains is a permutation of the numbers below n.

    Args:
      rng: key of the order.
      positions: `[B]` places, each from 0 to below n; what comes of others is undefined.
      num_examples: n, from 1 to 2**31 - 1. Static.

    Returns:
      `[B]` int32 examples from 0 to below n; the n places have n different ones.

    Raises:
      ValueError: if n is beyond these bounds.

    Reference: Black, Rogaway: Ciphers with arbitrary finite domains, CT-RSA 2002, methods 2 and 3; after Luby, Rackoff:
    How to construct pseudorandom permutations from pseudorandom functions, SIAM J. Comput. 17, 1988. The hash is the
    finalizer of MurmurHash3 (Appleby).
    """
    if not 1 <= num_examples < 2**31:
        raise ValueError(f"An order is of 1 to {2**31 - 1} examples: got {num_examples}.")
    # As square as it goes, and hardly larger than n: few numbers walk. Of the next power of two, half might.
    rows = math.isqrt(num_examples - 1) + 1
    a, b, n = (jnp.uint32(x) for x in (rows, -(-num_examples // rows), num_examples))
    keys = jax.random.bits(rng, (_ROUNDS,), jnp.uint32)

    def move(half: Array, other: Array, key: Array, size: Array) -> Array:
        return jax.lax.rem(half + jax.lax.rem(_mixed(other ^ key), size), size)

    def permute(x: Array) -> Array:
        left, right = x // b, jax.lax.rem(x, b)
        for each in range(0, _ROUNDS, 2):
            left = move(left, right, keys[each], a)
            right = move(right, left, keys[each + 1], b)
        return left * b + right

    first = permute(positions.astype(jnp.uint32))
    found = jax.lax.while_loop(lambda x: jnp.any(x >= n), lambda x: jnp.where(x >= n, permute(x), x), first)
    return found.astype(jnp.int32)


def _mixed(x: Array) -> Array:
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> jnp.uint32(16))


@jax.named_scope("sampling")
def examples_of_step(
    rng: PRNGKeyArray, step: Int[Array, ""], *, num_examples: int, batch_size: int
) -> Int[Array, " b"]:
    """What a step of an epoch takes: its part of a random order of the examples.

    Args:
      rng: key of the epoch.
      step: of the epoch, from 0 to below `num_steps`.
      num_examples: n, at most 2**31 - 1. Static.
      batch_size: B. Static.

    Returns:
      `[B]` examples; behind the end of the order -1.
    """
    # uint32: the end of the last batch may lie beyond int32.
    places = step.astype(jnp.uint32) * jnp.uint32(batch_size) + jnp.arange(batch_size, dtype=jnp.uint32)
    last = jnp.uint32(max(num_examples - 1, 0))
    found = shuffled(rng, jnp.minimum(places, last), max(num_examples, 1))
    return jnp.where(places < jnp.uint32(num_examples), found, -1)


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

    Raises:
      ValueError: if the interactions were laid out without `gaps`.
    """
    data = jax.tree.map(jnp.asarray, data)  # it may be on the host
    if data.gaps is None:
        raise ValueError("These interactions have no `gaps`: lay them out with exact_negatives=True.")
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
    rng: PRNGKeyArray,
    data: Interactions,
    index: Int[Array, " b"],
    *,
    num_negatives: int,
    shared: bool = False,
    axis: Axis = None,
) -> Batch:
    """The examples at `index` with fresh negatives.

    Args:
      rng: key of the step.
      data: training interactions.
      index: `[B]` positions in the training interactions, -1 for padding.
      num_negatives: N. Static.
      shared: False draws N for each example, none of them a training item of its user; True draws the same N warm items
        for all, uniformly, whoever has them. Static.
      axis: mesh axis over which the interactions are dealt out; None where this device has them all.

    Returns:
      A `Batch` of B examples, the same on every device.
    """
    rng, loss_rng = jax.random.split(rng)
    data = jax.tree.map(jnp.asarray, data)  # it may be on the host
    weight = (index >= 0).astype(jnp.float32)
    safe = jnp.maximum(index, 0)
    users, positives = (take_rows_everywhere(x, safe, axis) for x in (data.users, data.items))
    if data.weights is not None:
        weight = weight * take_rows_everywhere(data.weights, safe, axis)
    if shared:
        drawn = jax.random.randint(rng, (1, num_negatives), 0, data.pool.shape[0], dtype=jnp.int32)
        return Batch(users, positives, data.pool[drawn], loss_rng, weight)
    negatives, possible = sample_negatives(rng, data, users, num_negatives=num_negatives)
    return Batch(users, positives, negatives, loss_rng, jnp.where(possible, weight, 0.0))


@jax.named_scope("sampling")
def sample_triples(
    rng: PRNGKeyArray,
    triples: Int[Array, "t 3"],
    *,
    num_triples: int,
    num_entities: int,
    batch_size: int,
    axis: Axis = None,
) -> TripleBatch:
    """Triples with uniformly corrupted tails.

    Args:
      rng: key of the step.
      triples: `[T, 3]` head, relation, tail; on a mesh those that this device holds.
      num_triples: of all devices. Static.
      num_entities: E. Static.
      batch_size: B. Static.
      axis: mesh axis over which the triples are dealt out; None where this device has them all.

    Returns:
      A `TripleBatch`, the same on every device. A corrupted tail may by chance be a true one, as in KGAT.
    """
    pick, corrupt = jax.random.split(rng)
    chosen = take_rows_everywhere(jnp.asarray(triples), jax.random.randint(pick, (batch_size,), 0, num_triples), axis)
    corrupted = jax.random.randint(corrupt, (batch_size,), 0, num_entities)
    return TripleBatch(chosen[:, 0], chosen[:, 1], chosen[:, 2], corrupted)
