"""spmm and sddmm in XLA operations: slot scan where the layout has slots, sorted segment sum elsewhere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from slif_jax.kernels.layout import EllBlock, Structure
from slif_jax.kernels.shards import match_shards
from slif_jax.kernels.spmm import reference

sddmm = reference.sddmm


def spmm(
    structure: Structure, weight: Float[Array, " E"], x: Float[Array, "N D"], *, transposed: bool = False
) -> Float[Array, "M D"]:
    """As the reference; sums run in the order of the slots."""
    blocks = structure.t_ell if transposed else structure.ell
    count = structure.num_senders if transposed else structure.num_receivers
    if blocks is not None:
        y = jnp.zeros((count, x.shape[1]), jnp.float32)
        for block in blocks:
            y = y.at[block.rows].add(_scan_slots(block, weight, x), indices_are_sorted=True)
        return y.astype(x.dtype)
    if not transposed:
        source, (_, target, _) = structure.senders, reference.ends(structure)
        values = weight
    else:
        # The sender order makes the target ids ascend.
        places = jnp.arange(structure.num_edges, dtype=jnp.int32)
        real = places < structure.t_indptr[-1]
        source = structure.t_receivers
        target = jnp.where(real, jnp.take(structure.senders, structure.t_perm, mode="clip"), jnp.int32(count))
        values = jnp.take(weight, structure.t_perm, mode="clip")
    messages = values[:, None] * jnp.take(x, source, axis=0, mode="clip").astype(jnp.float32)
    return jax.ops.segment_sum(messages, target, num_segments=count, indices_are_sorted=True).astype(x.dtype)


def _scan_slots(block: EllBlock, weight: Array, x: Array) -> Array:
    """`[B, D]` sums of a block, one slot of all rows at a time, so that no `[E, D]` array is made."""
    # A free slot reads 0 on both sides, so that 0 * inf does not arise.
    values = weight.at[block.edges].get(mode="fill", fill_value=0)

    def slot(total: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        w, ids = part
        rows = x.at[ids].get(mode="fill", fill_value=0).astype(jnp.float32)
        return total + w[:, None] * rows, None

    start, _, _ = match_shards(jnp.zeros((block.rows.shape[0], x.shape[1]), jnp.float32), weight, x)
    total, _ = jax.lax.scan(slot, start, (values.T, jnp.asarray(block.senders).T))
    return total
