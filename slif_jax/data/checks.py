"""Checks a data set once, at the border; everything behind it may rely on these rules."""

from collections.abc import Callable
from itertools import combinations
from weakref import WeakSet

import numpy as np

from slif_jax.data.dataset import Dataset, Modality
from slif_jax.data.errors import DataError

# Says where a wrong value came from: `locate("train", (user, item))`, `locate("triples", row)`, `locate("text", row)`.
Locate = Callable[[str, object], str]

_BLOCK_VALUES = 1 << 23
_VALID: WeakSet[Dataset] = WeakSet()  # what was checked before; by identity, as data sets compare


RESERVED_NAMES = ("collaborative", "knowledge", "consistency", "regression", "walks", "content likeness")
"""Modalities of these names could not be told from parts of the model in its parameters, explanations and studies."""


def validate(dataset: Dataset, locate: Locate | None = None) -> Dataset:
    """Checks the rules of `Dataset` that its types do not say.

    Args:
      dataset: what a reader has built.
      locate: names the file and line of a value; a reader that knows them passes one.

    Returns:
      The same data set.

    Raises:
      DataError: the first rule that is broken, in one line.
    """
    locate = locate or _no_file
    _check_counts(dataset)
    for name, part in dataset.splits.items():
        _check_pairs(dataset, name, part, locate)
    if not len(dataset.train):
        raise DataError(f"{dataset.name}: no interaction is in train; there is nothing to learn from.")
    _check_disjoint(dataset, locate)
    _check_triples(dataset, locate)
    for name, modality in dataset.features.items():
        _check_modality(name, modality, dataset.num_items, locate)
    _VALID.add(dataset)
    return dataset


def validated(dataset: Dataset) -> Dataset:
    """`validate` for a data set that may have been made by hand; one that was checked before is not checked again."""
    return dataset if dataset in _VALID else validate(dataset)


def fitting(dataset: Dataset) -> Dataset:
    """As `validated`, for what needs no order: types, shapes and ranges alone. There may be repeats, or no rows."""
    if dataset not in _VALID:
        _check_counts(dataset)
        for name, part in dataset.splits.items():
            _check_ids(part, (dataset.num_users, dataset.num_items), ("user", "item"), name, _no_file)
        _check_triples(dataset, _no_file)
        for name, modality in dataset.features.items():
            _check_modality(name, modality, dataset.num_items, _no_file)
    return dataset


def _no_file(part: str, key: object) -> str:
    return part if key is None else f"{part}, {'pair' if isinstance(key, tuple) else 'row'} {key}"


def _check_counts(dataset: Dataset) -> None:
    if min(dataset.num_users, dataset.num_items) < 1:
        raise DataError(
            f"{dataset.name}: expected users and items, got {dataset.num_users} users and {dataset.num_items} items."
        )
    if dataset.num_entities < dataset.num_items:
        raise DataError(
            f"{dataset.name}: the items are the first entities, so num_entities must be at least num_items: "
            f"got {dataset.num_entities} and {dataset.num_items}."
        )
    lengths = {
        "user_ids": (dataset.user_ids, dataset.num_users),
        "item_ids": (dataset.item_ids, dataset.num_items),
        "item_titles": (dataset.item_titles, dataset.num_items),
        "entity_names": (dataset.entity_names, dataset.num_entities),
        "relation_names": (dataset.relation_names, dataset.num_relations),
    }
    for name, (array, length) in lengths.items():
        if array is not None and (array.shape != (length,) or array.dtype.kind != "U"):
            raise DataError(f"{name}: expected {length} strings, got {array.dtype} of shape {array.shape}.")
    weights, rows = dataset.train_weights, len(dataset.train)
    if weights is not None and (weights.shape != (rows,) or not (np.isfinite(weights).all() and (weights > 0).all())):
        raise DataError(f"train_weights: expected {rows} numbers above 0, one per row of train; None without any.")


def _check_ids(array: np.ndarray, sizes: tuple[int, ...], words: tuple[str, ...], part: str, locate: Locate) -> None:
    if array.ndim != 2 or array.shape[1] != len(sizes) or array.dtype != np.int32:
        raise DataError(f"{part}: expected int32 of shape [n, {len(sizes)}], got {array.dtype} of {array.shape}.")
    for column, (size, word) in enumerate(zip(sizes, words, strict=True)):
        ids = array[:, column]
        if len(ids) and (ids.min() < 0 or ids.max() >= size):
            row = int(np.argmax((ids < 0) | (ids >= size)))
            key = tuple(array[row].tolist()) if len(sizes) == 2 else row
            raise DataError(f"{locate(part, key)}: {word} {ids[row]} is outside 0 to {size - 1}.")


def _check_pairs(dataset: Dataset, name: str, pairs: np.ndarray, locate: Locate) -> None:
    _check_ids(pairs, (dataset.num_users, dataset.num_items), ("user", "item"), name, locate)
    users, items = pairs[:, 0], pairs[:, 1]
    rising = (users[1:] > users[:-1]) | ((users[1:] == users[:-1]) & (items[1:] > items[:-1]))
    if not rising.all():
        row = int(np.argmin(rising)) + 1
        raise DataError(f"{name}, row {row}: rows must be sorted by user, then item, without repeats.")


def _check_disjoint(dataset: Dataset, locate: Locate) -> None:
    keys = {name: _keys(part, dataset.num_items) for name, part in dataset.splits.items()}
    for first, second in combinations(keys, 2):
        large, small = keys[first], keys[second]
        if not len(large) or not len(small):
            continue
        found = np.minimum(np.searchsorted(large, small), len(large) - 1)
        shared = large[found] == small
        if shared.any():
            user, item = divmod(int(small[np.argmax(shared)]), dataset.num_items)
            raise DataError(
                f"{locate(second, (user, item))}: user {user} and item {item} are in {first} and in {second}; "
                "a pair may be in one split only."
            )


def _keys(pairs: np.ndarray, num_items: int) -> np.ndarray:
    return pairs[:, 0].astype(np.int64) * num_items + pairs[:, 1]


def _check_triples(dataset: Dataset, locate: Locate) -> None:
    sizes = (dataset.num_entities, dataset.num_relations, dataset.num_entities)
    _check_ids(dataset.triples, sizes, ("head", "relation", "tail"), "triples", locate)


def _check_modality(name: str, modality: Modality, num_items: int, locate: Locate) -> None:
    if name in RESERVED_NAMES:
        raise DataError(f"{locate(name, None)}: '{name}' is a part of the model, no name for a modality. Rename it.")
    values, present = modality.values, modality.present
    if values.ndim != 2 or not values.shape[1]:
        raise DataError(f"{locate(name, None)}: expected an array [items, width], got shape {values.shape}.")
    if len(values) != num_items:
        raise DataError(f"{locate(name, None)}: expected {num_items} rows, one per item, got {len(values)}.")
    if values.dtype not in (np.float16, np.float32):
        raise DataError(f"{locate(name, None)}: expected float16 or float32, got {values.dtype}.")
    if present.shape != (num_items,) or present.dtype != np.bool_:
        raise DataError(
            f"{locate(f'{name}_present', None)}: expected bool of shape ({num_items},), "
            f"got {present.dtype} of shape {present.shape}."
        )
    rows = max(1, _BLOCK_VALUES // values.shape[1])
    for start in range(0, num_items, rows):
        bad = ~np.isfinite(values[start : start + rows]).all(axis=1) & present[start : start + rows]
        if bad.any():
            row = start + int(np.argmax(bad))
            wrong = values[row][~np.isfinite(values[row])][0]
            raise DataError(f"{locate(name, row)}: expected finite numbers, got {wrong}.")
