"""topk: entry checks and the choice of implementation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from slif_jax.kernels import dispatch
from slif_jax.kernels.shards import match_shards
from slif_jax.kernels.topk import native, reference, xla
from slif_jax.kernels.topk.types import Exclusions, Limits, TopK


def topk(
    queries: Float[Array, "M D"],
    keys: Float[Array, "N D"],
    k: int,
    *,
    exclude: str | Exclusions | None = None,
    row_offset: int | Int32[Array, ""] = 0,
    num_keys: int | Int32[Array, ""] | None = None,
    recall_target: float | None = None,
    implementation: str | None = None,
) -> TopK:
    """The k keys with the largest inner product for each query.

    M queries, N keys, D columns. Scores are computed in blocks: memory is O(M k), never O(M N). Not differentiable;
    gradients stop here.

    Args:
      queries: `[M, D]`, float32 or bfloat16.
      keys: `[N, D]`, of the same dtype.
      k: number of keys per query, at least 1. Static. May exceed N.
      exclude: None; "self": query i never returns key i + `row_offset`; or `Exclusions`.
      row_offset: number of the first query among the keys, for "self" with a block of rows. May be traced.
      num_keys: keys at and beyond it are never chosen. None takes N. May be traced.
      recall_target: given, TPUs select approximately with this expected recall; other platforms stay exact.
      implementation: see `slif_jax.ops`. None picks the fastest that works.

    Returns:
      `TopK(values, indices)`, both `[M, k]`, descending, ties to the lower index. Scores that are NaN or -inf are
      never chosen. Where no candidate is left, value -inf and index -1.

    Raises:
      ValueError: if shapes do not fit, `exclude` is another string, or a named implementation cannot run.
      TypeError: if dtypes differ, or are neither float32 nor bfloat16.

    Example:
      >>> import jax.numpy as jnp
      >>> from slif_jax import ops
      >>> table = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
      >>> ops.topk(table, table, 1, exclude="self").indices.tolist()
      [[1], [0], [1]]
    """
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(f"`queries` and `keys` must be equally wide matrices: got {queries.shape}, {keys.shape}.")
    if queries.dtype != keys.dtype or queries.dtype not in (jnp.float32, jnp.bfloat16):
        raise TypeError(f"`queries` and `keys` must both be float32 or bfloat16: got {queries.dtype}, {keys.dtype}.")
    if k < 1:
        raise ValueError(f"`k` must be at least 1: got {k}.")
    if isinstance(exclude, str) and exclude != "self":
        raise ValueError(f"`exclude` must be None, 'self' or Exclusions(indptr, indices): got {exclude!r}.")
    exclusions = exclude if isinstance(exclude, Exclusions) else None
    if exclusions is not None and exclusions.indptr.shape != (queries.shape[0] + 1,):
        raise ValueError(
            f"`exclude.indptr` must have one entry more than there are queries: got {exclusions.indptr.shape} for"
            f" {queries.shape[0]} queries."
        )
    name = dispatch.resolve("topk", implementation)
    limit = jnp.minimum(jnp.asarray(keys.shape[0] if num_keys is None else num_keys, jnp.int32), keys.shape[0])
    offset = jnp.asarray(row_offset, jnp.int32) if isinstance(exclude, str) else None
    args = match_shards(queries, keys, Limits(limit, offset, exclusions))
    return _jit_topk(name, int(k), recall_target, *(jax.lax.stop_gradient(arg) for arg in args))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _jit_topk(name, k, recall_target, queries, keys, limits):
    def fix(function, **options):
        return lambda queries, keys, limits: function(queries, keys, k, limits, **options)

    functions = {
        "reference": fix(reference.topk),
        "xla": fix(xla.topk, recall_target=recall_target),
        "native": fix(native.topk),
    }
    return dispatch.call("topk", name, functions, queries, keys, limits)
