"""Sparse times dense and its adjoint in the weights: `spmm` and `sddmm` are each other's derivatives."""

from slif_jax.kernels.spmm.api import sddmm, spmm

__all__ = ["sddmm", "spmm"]
