"""Degree-bucketed slots (ELLPACK), the layout of the XLA path on machines without the native kernels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Int32

_MAX_SLOTS = 64  # longer rows are cut into pieces of this many slots


class EllBlock(NamedTuple):
    """Rows of similar degree, padded to the same number of slots.

    Attributes:
      rows: the receiver of each row of the block; a receiver with many edges stands in several rows.
      senders: `[B, K]`; a free slot holds S, one past the last sender.
      edges: `[B, K]`, the edge's position in receiver order; a free slot holds E.
    """

    rows: Int32[Array | np.ndarray, " B"]
    senders: Int32[Array | np.ndarray, "B K"]
    edges: Int32[Array | np.ndarray, "B K"]


def build_ell(indptr: np.ndarray, senders: np.ndarray, edges: np.ndarray, *, num_senders: int) -> tuple[EllBlock, ...]:
    """Sorts rows into blocks of 2, 4, 8, ... 64 slots.

    Args:
      indptr: `[R + 1]`.
      senders: `[E]`, in the order of `indptr`.
      edges: `[E]`, each edge's position in the weights.
      num_senders: rows of the table that senders point into.

    Returns:
      The blocks that have rows, at least half full each (a block of 2 slots may be less full).
    """
    num_edges = len(senders)
    degree = np.diff(indptr)
    pieces = -(-degree // _MAX_SLOTS)
    rows = np.repeat(np.arange(len(degree)), pieces)
    piece = np.arange(len(rows)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = indptr[:-1][rows] + piece * _MAX_SLOTS
    lengths = np.minimum(degree[rows] - piece * _MAX_SLOTS, _MAX_SLOTS)
    blocks = []
    low, slots = 0, 2
    while slots <= _MAX_SLOTS:
        pick = np.flatnonzero((lengths > low) & (lengths <= slots))
        if len(pick):
            places = starts[pick, None] + np.arange(slots)[None, :]
            real = np.arange(slots)[None, :] < lengths[pick, None]
            places = np.minimum(places, num_edges - 1)
            blocks.append(
                EllBlock(
                    rows[pick].astype(np.int32),
                    np.where(real, senders[places], num_senders).astype(np.int32),
                    np.where(real, edges[places], num_edges).astype(np.int32),
                )
            )
        low, slots = slots, slots * 2
    return tuple(blocks)
