"""Attention of each receiver over its incoming edges, fused forward and backward."""

from slif_jax.kernels.edge_attention.api import AttentionOutput, attention_weights, edge_attention

__all__ = ["AttentionOutput", "attention_weights", "edge_attention"]
