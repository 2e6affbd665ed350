"""The k largest inner products of each query with a table of keys, without the table of all scores."""

from slif_jax.kernels.topk.api import topk
from slif_jax.kernels.topk.types import Exclusions, TopK

__all__ = ["Exclusions", "TopK", "topk"]
