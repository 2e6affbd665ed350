"""What every reader returns: ids, splits, triples and features of one data set, as read-only NumPy arrays."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_BLOCK_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True, eq=False)
class Modality:
    """Raw features of one kind for every item.

    I is the number of items, d the width.

    Attributes:
      values: `[I, d]` float32 or float16, possibly memory-mapped. Rows of absent items may hold anything, NaN
        included: read them through `features.filled`, or mask with `where`, never by multiplying with 0.
      present: `[I]` bool, whether the item has this modality.
    """

    values: np.ndarray
    present: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "values", _read_only(self.values))
        object.__setattr__(self, "present", _read_only(self.present))


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Users, items, their interactions in three splits, a knowledge graph and item features.

    n, T are the numbers of rows. Items are the entities 0 to num_items - 1.

    Attributes:
      name: for headings and file names.
      num_users: users, numbered from 0.
      num_items: items, numbered from 0.
      num_entities: items and the other nodes of the knowledge graph; at least `num_items`.
      num_relations: relations of the knowledge graph; 0 without one.
      train: `[n, 2]` int32 (user, item), sorted by user, then item, without duplicates.
      valid: likewise.
      test: likewise; no pair is in two splits.
      triples: `[T, 3]` int32 (head, relation, tail), sorted, without duplicates; `[0, 3]` without a knowledge graph.
      features: modalities by name, in the order of their names.
      user_ids: `[num_users]` str, the ids users had in the source, for outputs.
      item_ids: `[num_items]` str, likewise.
      item_titles: `[num_items]` str, '' where unknown; None without titles.
      entity_names: `[num_entities]` str, likewise.
      relation_names: `[num_relations]` str, likewise.
      train_weights: `[n]` float32 above 0, how much each row of `train` counts (`credibility.weigh_interactions`); None
        where all count alike. Files do not hold it, and it is in no fingerprint.
    """

    name: str
    num_users: int
    num_items: int
    num_entities: int
    num_relations: int
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    triples: np.ndarray
    features: dict[str, Modality]
    user_ids: np.ndarray
    item_ids: np.ndarray
    item_titles: np.ndarray | None = None
    entity_names: np.ndarray | None = None
    relation_names: np.ndarray | None = None
    train_weights: np.ndarray | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                object.__setattr__(self, field.name, _read_only(value))
        object.__setattr__(self, "features", dict(sorted(self.features.items())))

    @property
    def splits(self) -> dict[str, np.ndarray]:
        """The three splits by name, in the order train, valid, test."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

    @property
    def train_values(self) -> np.ndarray:
        """`[n]` float64: `train_weights`, ones without them."""
        return np.ones(len(self.train)) if self.train_weights is None else self.train_weights.astype(np.float64)

    @functools.cached_property
    def split_fingerprint(self) -> str:
        """SHA-256 of the counts and the three splits: equal when results may be compared."""
        digest = hashlib.sha256(f"users {self.num_users} items {self.num_items}".encode())
        for part in self.splits.values():
            _add_array(digest, part)
        return digest.hexdigest()

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything a model is trained on, and of the original ids. Titles and names do not count."""
        digest = hashlib.sha256(self.split_fingerprint.encode())
        digest.update(f"entities {self.num_entities} relations {self.num_relations}".encode())
        _add_array(digest, self.triples)
        for name, modality in self.features.items():
            digest.update(f"modality {name}".encode())
            _add_array(digest, modality.present)
            _add_array(digest, modality.values)
        for ids in (self.user_ids, self.item_ids):
            digest.update("\n".join(ids.tolist()).encode())
        return digest.hexdigest()

    def summary(self) -> str:
        """Returns a short table of counts, one line each."""
        interactions = len(self.train) + len(self.valid) + len(self.test)
        cells = max(1, self.num_users * self.num_items)
        rows = [
            ("data set", self.name),
            ("users", f"{self.num_users:,}"),
            ("items", f"{self.num_items:,} ({np.count_nonzero(np.bincount(self.train[:, 1])):,} in train)"),
            ("interactions", f"{interactions:,} (density {interactions / cells:.3%})"),
            ("train / valid / test", f"{len(self.train):,} / {len(self.valid):,} / {len(self.test):,}"),
        ]
        if self.num_relations:
            rows.append(("entities", f"{self.num_entities:,} (items included)"))
            rows.append(("triples", f"{len(self.triples):,} in {self.num_relations:,} relations"))
        else:
            rows.append(("knowledge graph", "none"))
        for name, modality in self.features.items():
            width, count = modality.values.shape[1], int(modality.present.sum())
            rows.append((name, f"{width:,} wide, {modality.values.dtype}, {count:,} of {self.num_items:,} items"))
        rows.append(("fingerprint", self.fingerprint[:16]))
        left = max(len(label) for label, _ in rows)
        return "\n".join(f"{label:<{left}}  {value}" for label, value in rows)


def numbers(count: int) -> np.ndarray:
    """Returns '0', '1', ... as an array of str: the ids of what has no other name."""
    return np.arange(count).astype(f"U{len(str(count))}")


def sorted_unique(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
    """Sorts rows by their columns, first column first, and drops repeats.

    Args:
      columns: `[n]` arrays of ids, 0 or more, one per column.

    Returns:
      `[m, c]` int32 rows, and the number of repeats dropped, `n - m`.
    """
    columns = [np.asarray(column) for column in columns]
    before = len(columns[0])
    if not before:
        return np.zeros((0, len(columns)), np.int32), 0
    sizes = [int(column.max()) + 1 for column in columns]
    if float(np.prod(np.asarray(sizes, np.float64))) < 2**62:  # one 64-bit key per row sorts fastest
        keys = np.zeros(before, np.int64)
        for column, size in zip(columns, sizes, strict=True):
            keys *= size
            keys += column
        keys = sorted_keys(keys)
        rows = np.empty((len(keys), len(columns)), np.int32)
        for index in reversed(range(len(columns))):
            keys, rows[:, index] = np.divmod(keys, sizes[index])
    else:
        rows = np.unique(np.stack(columns, axis=1).astype(np.int32), axis=0)
    return rows, before - len(rows)


def sorted_keys(keys: np.ndarray) -> np.ndarray:
    """Returns the different values of an array in rising order; for many integers a sort beats `numpy.unique`."""
    keys = np.sort(keys)
    first = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.setflags(write=False)
    return view


def _add_array(digest: Any, array: np.ndarray) -> None:
    """Adds an array to a hash, in blocks and in little-endian order, so that the machine does not matter."""
    little = array.dtype.newbyteorder("<")
    digest.update(f"{little.str} {array.shape}".encode())
    row_bytes = max(1, array.itemsize * int(np.prod(array.shape[1:])))
    rows = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, len(array), rows):
        digest.update(np.ascontiguousarray(array[start : start + rows], dtype=little).data)
