"""Which device holds which user, item and entity, so that each has as many edges as the others."""

import dataclasses
import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int

from slif_jax.data import Dataset
from slif_jax.meshes import Rows
from slif_jax.sampling import Batch, TripleBatch


@dataclasses.dataclass(frozen=True, eq=False)
class Placement:
    """The rows of one table, dealt out to devices.

    Attributes:
      rows: `[n]`, where node i stands when the parts of all devices are laid end to end.
      num_shards: devices.
      rows_each: rows of each device; those that no node has are padding.
    """

    rows: np.ndarray
    num_shards: int
    rows_each: int

    @property
    def total(self) -> int:
        """Rows of all devices, padding included."""
        return self.num_shards * self.rows_each

    @property
    def owner(self) -> np.ndarray:
        """`[n]`, the device of each node."""
        return self.rows // self.rows_each

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """`[total]`, the node of each row; -1 in the padding."""
        ids = np.full(self.total, -1, np.int32)
        ids[self.rows] = np.arange(len(self.rows), dtype=np.int32)
        return ids

    def part(self, values: Rows, shard: int, fill: int = 0) -> np.ndarray:
        """`[rows_each, ...]` of `[n, ...]`: the values of one device's rows, `fill` in the padding."""
        ids = self.ids[shard * self.rows_each : (shard + 1) * self.rows_each]
        out = np.full((self.rows_each, *values.shape[1:]), fill, values.dtype)
        out[ids >= 0] = values[ids[ids >= 0]]
        return out

    def collect(self, values: np.ndarray) -> np.ndarray:
        """`[n, ...]` of `[total, ...]`: the parts of all devices, in the nodes' own order."""
        return values[self.rows]


def deal_out(num_edges: np.ndarray, num_shards: int) -> Placement:
    """Deals nodes out so that all devices get as many nodes and, as nearly as that allows, as many edges.

    The nodes are taken by falling number of edges and dealt forth and back (1, 2, 3, 3, 2, 1, ...): a device is ahead
    of another by no more than the largest node. Within a device they keep their order.

    Args:
      num_edges: `[n]` edges of each node.
      num_shards: devices.

    Returns:
      `Placement`.
    """
    n = len(num_edges)
    order = np.argsort(-num_edges, kind="stable")
    turn, seat = np.divmod(np.arange(n), num_shards)
    owner = np.empty(n, np.int64)
    owner[order] = np.where(turn % 2 == 0, seat, num_shards - 1 - seat)
    rows_each = max(1, -(-n // num_shards))
    by_owner = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[by_owner], np.arange(num_shards))
    rows = np.empty(n, np.int64)
    rows[by_owner] = owner[by_owner] * rows_each + np.arange(n) - starts[owner[by_owner]]
    return Placement(rows.astype(np.int32), num_shards, rows_each)


def side_by_side(first: Placement, second: Placement) -> Placement:
    """Two tables as one: each device has its rows of the first, then its rows of the second."""
    rows_each = first.rows_each + second.rows_each
    rows = [
        part.owner * rows_each + part.rows % part.rows_each + start
        for part, start in ((first, 0), (second, first.rows_each))
    ]
    return Placement(np.concatenate(rows).astype(np.int32), first.num_shards, rows_each)


@dataclasses.dataclass(frozen=True, eq=False)
class Placements:
    """The placements of a data set's nodes."""

    users: Placement
    items: Placement
    others: Placement
    """Entities that are no items."""

    @property
    def nodes(self) -> Placement:
        """Users, then items: the nodes of the interaction graph."""
        return side_by_side(self.users, self.items)

    @property
    def entities(self) -> Placement:
        """Items, then the other entities: the nodes of the knowledge graph."""
        return side_by_side(self.items, self.others)


def place(dataset: Dataset, num_shards: int) -> Placements:
    """Deals out users by their interactions, items by interactions and triples, other entities by triples.

    Args:
      dataset: loaded data.
      num_shards: devices.

    Returns:
      `Placements`.
    """
    users, items = dataset.train[:, 0], dataset.train[:, 1]
    ends = dataset.triples[:, [0, 2]].reshape(-1)
    links = np.bincount(ends, minlength=max(dataset.num_entities, dataset.num_items))
    interactions = np.bincount(items, minlength=dataset.num_items)
    return Placements(
        users=deal_out(np.bincount(users, minlength=dataset.num_users), num_shards),
        items=deal_out(interactions + links[: dataset.num_items], num_shards),
        others=deal_out(links[dataset.num_items :], num_shards),
    )


class Places(NamedTuple):
    """The same for use on the device: the row of each user, item and entity."""

    users: Int[Array, " users"]
    items: Int[Array, " items"]
    entities: Int[Array, " entities"]

    def of_batch(self, batch: Batch) -> Batch:
        """The batch with rows instead of ids."""
        return batch._replace(
            users=self.users[batch.users],
            positives=self.items[batch.positives],
            negatives=self.items[batch.negatives],
        )

    def of_triples(self, triples: TripleBatch | None) -> TripleBatch | None:
        """The triples with rows instead of ids."""
        if triples is None:
            return None
        return triples._replace(
            heads=self.entities[triples.heads],
            tails=self.entities[triples.tails],
            corrupted_tails=self.entities[triples.corrupted_tails],
        )


def places(placements: Placements) -> Places:
    """Puts the rows on the default device."""
    parts = (placements.users, placements.items, placements.entities)
    return Places(*(jnp.asarray(part.rows) for part in parts))
