"""Defines spmm and sddmm in plain segment operations, differentiated by JAX itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from slif_jax.kernels.layout import Structure


def ends(structure: Structure) -> tuple[Array, Array, Array]:
    """Each edge's sender, receiver and whether it is real; the receiver of a padding edge is R, one past the last."""
    real = jnp.arange(structure.num_edges, dtype=jnp.int32) < structure.indptr[-1]
    receivers = jnp.where(real, structure.receivers, jnp.int32(structure.num_receivers))
    return structure.senders, receivers, real


def spmm(
    structure: Structure, weight: Float[Array, " E"], x: Float[Array, "N D"], *, transposed: bool = False
) -> Float[Array, "M D"]:
    """y_r = sum over edges e into r of w_e x_{s(e)}; transposed: over edges out of s, of w_e x_{r(e)}."""
    senders, receivers, real = ends(structure)
    source, target, count = (
        (receivers, jnp.where(real, senders, jnp.int32(structure.num_senders)), structure.num_senders)
        if transposed
        else (senders, receivers, structure.num_receivers)
    )
    rows = jnp.where(real[:, None], jnp.take(x, source, axis=0, mode="clip").astype(jnp.float32), jnp.float32(0))
    messages = jnp.where(real, weight, jnp.float32(0))[:, None] * rows
    return jax.ops.segment_sum(messages, target, num_segments=count).astype(x.dtype)


def sddmm(structure: Structure, y: Float[Array, "R D"], x: Float[Array, "S D"]) -> Float[Array, " E"]:
    """s_e = <y_{r(e)}, x_{s(e)}>, 0 on padding."""
    senders, receivers, real = ends(structure)
    left = jnp.take(y, receivers, axis=0, mode="clip").astype(jnp.float32)
    right = jnp.take(x, senders, axis=0, mode="clip").astype(jnp.float32)
    keep = real[:, None]
    zero = jnp.float32(0)
    return jnp.sum(jnp.where(keep, left, zero) * jnp.where(keep, right, zero), axis=1)
