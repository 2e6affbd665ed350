"""SLIF-MR in JAX: multimodal recommendation whose graphs are rebuilt while training."""
