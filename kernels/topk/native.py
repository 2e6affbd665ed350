"""topk by the native CPU kernel: matrix product and selection fused, exclusions checked for survivors only."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from slif_jax.kernels.shards import result
from slif_jax.kernels.topk.types import Limits, TopK


def topk(queries: Float[Array, "M D"], keys: Float[Array, "N D"], k: int, limits: Limits) -> TopK:
    """As the reference; sums run in another order."""
    shape = (queries.shape[0], k)
    out = tuple(result(shape, dtype, queries, keys) for dtype in (jnp.float32, jnp.int32))
    none = jnp.zeros((0,), jnp.int32)
    indptr, indices = (none, none) if limits.exclusions is None else limits.exclusions
    call = jax.ffi.ffi_call("slif_topk", out, vmap_method="sequential")
    values, ids = call(
        queries.astype(jnp.float32),
        keys.astype(jnp.float32),
        limits.num_keys,
        none if limits.self_offset is None else limits.self_offset,
        indptr,
        indices,
    )
    return TopK(values, ids)
