"""What the implementations of edge attention share: argument and result types."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int32


class AttentionOutput(NamedTuple):
    """Attention's result and the logarithm of its normaliser, by which two attentions can be merged.

    Attributes:
      values: `[R, D]`, the weighted mean of each receiver's messages, 0 without edges.
      logsumexp: `[R]` float32, log of the sum of w_e exp(l_e), -inf without edges.
    """

    values: Float[Array, "R D"]
    logsumexp: Float[Array, " R"]


class Inputs(NamedTuple):
    """The differentiable arguments. `weight` and `relation_vectors` may be None: all ones."""

    query: Float[Array, "R D"]
    x: Float[Array, "S D"]
    relation_vectors: Float[Array, "K D"] | None
    weight: Float[Array, " E"] | None


Relation = Int32[Array, " E"] | None
