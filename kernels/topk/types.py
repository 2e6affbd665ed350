"""Arguments and results of topk."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int32


class TopK(NamedTuple):
    """The best keys of each query, best first; value -inf and index -1 where there is none.

    Attributes:
      values: `[M, k]` float32.
      indices: `[M, k]`.
    """

    values: Float[Array, "M k"]
    indices: Int32[Array, "M k"]


class Exclusions(NamedTuple):
    """Keys that a query must not return.

    Attributes:
      indptr: query i excludes `indices[indptr[i]:indptr[i + 1]]`.
      indices: ascending within each query; those out of range are ignored.
    """

    indptr: Int32[Array, " M+1"]
    indices: Int32[Array, " P"]


class Limits(NamedTuple):
    """Which candidates exist: keys below `num_keys`, less the exclusions, less key i + `self_offset` of query i."""

    num_keys: Int32[Array, ""]
    self_offset: Int32[Array, ""] | None
    exclusions: Exclusions | None
