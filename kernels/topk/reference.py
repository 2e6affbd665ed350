"""Defines topk: all scores at once, then a stable sort."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from slif_jax.kernels.topk.types import Limits, TopK


def scores_of(queries: Float[Array, "M D"], keys: Float[Array, "N D"]) -> Float[Array, "M N"]:
    """Inner products in float32; NaN, which is never chosen, becomes -inf, and -0 becomes 0."""
    scores = jnp.matmul(queries, keys.T, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    return jnp.where(scores == 0, jnp.zeros_like(scores), scores)


def mask_range(scores: Array, limits: Limits, first_row: Array) -> Array:
    """-inf for keys past the table's end and for the query itself. `first_row` numbers the first row of the block."""
    ids = jnp.arange(scores.shape[1], dtype=jnp.int32)[None, :]
    out = ids >= limits.num_keys
    if limits.self_offset is not None:
        rows = jnp.arange(scores.shape[0], dtype=jnp.int32)[:, None] + first_row + limits.self_offset
        out = out | (ids == rows)
    return jnp.where(out, -jnp.inf, scores)


def best(scores: Array, k: int) -> TopK:
    """The k largest of each row, ties to the lower index; k may exceed the width."""
    have = min(k, scores.shape[1])
    values, indices = jax.lax.top_k(scores, have)
    values = jnp.pad(values, ((0, 0), (0, k - have)), constant_values=-jnp.inf)
    indices = jnp.pad(indices.astype(jnp.int32), ((0, 0), (0, k - have)), constant_values=-1)
    return TopK(values, jnp.where(values == -jnp.inf, jnp.int32(-1), indices))


def topk(queries: Float[Array, "M D"], keys: Float[Array, "N D"], k: int, limits: Limits) -> TopK:
    """See `slif_jax.ops.topk`."""
    scores = mask_range(scores_of(queries, keys), limits, jnp.int32(0))
    if limits.exclusions is not None:
        indptr, indices = limits.exclusions
        places = jnp.arange(indices.shape[0], dtype=jnp.int32)
        rows = jnp.searchsorted(indptr, places, side="right").astype(jnp.int32) - jnp.int32(1)
        real = (places < indptr[-1]) & (indices >= 0)
        rows = jnp.where(real, rows, jnp.int32(scores.shape[0]))
        scores = scores.at[rows, indices].set(-jnp.inf, mode="drop")
    return best(scores, k)
