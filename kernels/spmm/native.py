"""spmm and sddmm by the native CPU kernels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from slif_jax.kernels.layout import Structure
from slif_jax.kernels.shards import result


def spmm(
    structure: Structure, weight: Float[Array, " E"], x: Float[Array, "N D"], *, transposed: bool = False
) -> Float[Array, "M D"]:
    """As the reference. The transposed sum reads the weights through the permutation, without a copy."""
    if transposed:
        indptr, columns, perm = structure.t_indptr, structure.t_receivers, structure.t_perm
    else:
        indptr, columns, perm = structure.indptr, structure.senders, structure.senders[:0]
    out = result((indptr.shape[0] - 1, x.shape[1]), x.dtype, indptr, weight, x)
    call = jax.ffi.ffi_call("slif_spmm", out, vmap_method="sequential")
    return call(indptr, columns, perm, weight, x)


def sddmm(structure: Structure, y: Float[Array, "R D"], x: Float[Array, "S D"]) -> Float[Array, " E"]:
    """As the reference."""
    out = result((structure.num_edges,), jnp.float32, structure.indptr, y, x)
    call = jax.ffi.ffi_call("slif_sddmm", out, vmap_method="sequential")
    return call(structure.indptr, structure.senders, y, x)


def gradients(
    structure: Structure, weight: Float[Array, " E"], x: Float[Array, "S D"], ct: Float[Array, "R D"]
) -> tuple[Float[Array, " E"], Float[Array, "S D"]]:
    """spmm's cotangents of the weights and of x, in one pass. float32 only."""
    like = (structure.t_indptr, weight, x, ct)
    out = (result(weight.shape, jnp.float32, *like), result(x.shape, jnp.float32, *like))
    call = jax.ffi.ffi_call("slif_gradients", out, vmap_method="sequential")
    dw, dx = call(structure.t_indptr, structure.t_receivers, structure.t_perm, weight, ct, x)
    return dw, dx
