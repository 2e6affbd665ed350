"""topk in XLA operations: blocks of queries, one matrix product and one selection each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from slif_jax.kernels.topk import reference
from slif_jax.kernels.topk.types import Exclusions, Limits, TopK

_BLOCK_SCORES = 1 << 22  # scores held at once
_WINDOW = 1024  # exclusions applied at once


def topk(
    queries: Float[Array, "M D"],
    keys: Float[Array, "N D"],
    k: int,
    limits: Limits,
    *,
    recall_target: float | None = None,
) -> TopK:
    """As the reference, in blocks of at most 4M scores. `recall_target` makes TPUs select approximately."""
    num_rows, num_keys = queries.shape[0], keys.shape[0]
    if num_rows == 0 or num_keys == 0:
        return reference.topk(queries, keys, k, limits)
    block = max(1, min(num_rows, 256, _BLOCK_SCORES // num_keys))
    num_blocks = -(-num_rows // block)
    padded = jnp.pad(queries, ((0, num_blocks * block - num_rows), (0, 0)))

    def exact(scores: Array) -> TopK:
        return reference.best(scores, k)

    def approximate(scores: Array) -> TopK:
        values, indices = jax.lax.approx_max_k(scores, k, recall_target=recall_target or 1.0)
        return TopK(values, jnp.where(values == -jnp.inf, jnp.int32(-1), indices.astype(jnp.int32)))

    def one(args: tuple[Array, Array]) -> TopK:
        rows, first = args
        scores = reference.mask_range(reference.scores_of(rows, keys), limits, first)
        if limits.exclusions is not None:
            scores = _exclude(scores, limits.exclusions, first)
        if recall_target is None or k >= num_keys:
            return exact(scores)
        return jax.lax.platform_dependent(scores, tpu=approximate, default=exact)

    starts = jnp.arange(num_blocks, dtype=jnp.int32) * jnp.int32(block)
    found = jax.lax.map(one, (padded.reshape(num_blocks, block, -1), starts))
    return TopK(*(part.reshape(num_blocks * block, k)[:num_rows] for part in found))


def _exclude(scores: Array, exclusions: Exclusions, first: Array) -> Array:
    """Sets the excluded scores of a block of rows to -inf, a window of the list at a time."""
    indptr, indices = exclusions
    num_rows = indptr.shape[0] - 1
    if indices.shape[0] == 0:
        return scores
    last = jnp.minimum(first + jnp.int32(scores.shape[0]), jnp.int32(num_rows))
    # Bounds that are wrong must not make the loop below endless.
    start = jnp.maximum(indptr[jnp.minimum(first, jnp.int32(num_rows))], jnp.int32(0))
    stop = jnp.minimum(indptr[last], jnp.int32(indices.shape[0]))

    def more(carry: tuple[Array, Array]) -> Array:
        return carry[0] < stop

    def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        at, scores = carry
        places = at + jnp.arange(_WINDOW, dtype=jnp.int32)
        rows = jnp.searchsorted(indptr, places, side="right").astype(jnp.int32) - jnp.int32(1) - first
        ids = jnp.take(indices, places, mode="clip")
        rows = jnp.where((places < stop) & (ids >= 0), rows, jnp.int32(scores.shape[0]))
        return at + jnp.int32(_WINDOW), scores.at[rows, ids].set(-jnp.inf, mode="drop")

    return jax.lax.while_loop(more, step, (start, scores))[1]
