"""Reads a folder as KGAT and KGIN have it: text files of whole numbers with spaces between them, without headers.

  train.txt, test.txt     a line per user: the user, then the items
  valid.txt               optional, likewise
  kg_final.txt, kg.txt    optional, one of them: head, relation, tail; the items are the first entities
  item_list.txt           optional, with a header: org_id, remap_id, perhaps freebase_id
  user_list.txt, entity_list.txt, relation_list.txt    optional, with a header: org_id, remap_id
  <modality>_feat.npy     optional: [I, d], row i is item i

The items are 0 to the largest number of the interactions or of `item_list.txt`. An item that occurs in none of them is
known if a triple has it; other gaps are closed. A line may name a user without items, and an item twice.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slif_jax.data import features, findings, tables
from slif_jax.data.errors import DataError
from slif_jax.data.raw import SPLITS, Interactions, Knowledge, Names, Raw, Selection

TRAIN = "train.txt"
GRAPHS = ("kg_final.txt", "kg.txt")
_MAX_ID = 2**31 - 2


def detect(folder: Path) -> bool:
    """Says whether a folder is in this layout."""
    return (folder / TRAIN).is_file()


def read(folder: Path, selection: Selection) -> Raw:
    """Reads a folder in this layout.

    Args:
      folder: holds at least `train.txt`.
      selection: not used: there are neither ratings nor times.

    Returns:
      What the files say.

    Raises:
      DataError: names the file and the line of the first thing that is wrong.
    """
    del selection
    pairs, labels = [], []
    for label, name in enumerate(SPLITS):
        path = folder / f"{name}.txt"
        if name == "train" or path.is_file():
            part = _read_pairs(path)
            pairs.append(part)
            labels.append(np.full(part.shape[1], label, np.int8))
    users, items = np.concatenate(pairs, axis=1)
    return with_extras(folder, Interactions(users, items, np.concatenate(labels)), int(items.max(initial=-1)) + 1)


def with_extras(folder: Path, rows: Interactions, num_items: int) -> Raw:
    """Adds lists, knowledge graph and features of the folder to its interactions.

    Args:
      folder: where they are looked for.
      rows: the interactions.
      num_items: items at least; `item_list.txt` may name more.

    Returns:
      All of it.

    Raises:
      DataError: names the file and the line of the first thing that is wrong.
    """
    item_names, user_names = read_list(folder / "item_list.txt"), read_list(folder / "user_list.txt")
    known = np.zeros(0, np.int32) if item_names is None else item_names.ids
    num_items = max(num_items, int(known.max(initial=-1)) + 1)
    modalities = features.read_feat_files(folder, num_items)
    triples = _read_triples(folder)
    knowledge = None
    if triples is not None:
        # Entities of the list that no triple has are left out: KGAT's lists go beyond its graph.
        ends = np.unique(triples[:, [0, 2]])
        known = np.union1d(known, ends[ends < num_items])
        knowledge = Knowledge(
            triples,
            *(
                _used(folder / f"{word}_list.txt", ids)
                for word, ids in (("entity", ends), ("relation", np.unique(triples[:, 1])))
            ),
        )
    return Raw(
        name=folder.resolve().name,
        interactions=rows,
        num_items=num_items,
        known_items=np.arange(num_items, dtype=np.int32) if modalities else known,
        user_names=user_names,
        item_names=item_names,
        knowledge=knowledge,
        features=modalities,
        locate=lambda part, key: f"{part}{features.FEATURES}.npy" + ("" if key is None else f", row {key}"),
    )


def read_list(path: Path) -> Names | None:
    """Reads a list of original ids, with a header that names `org_id` and `remap_id`.

    Returns:
      The original ids, or None without the file. What stands after them is not used.

    Raises:
      DataError: names file and line.
    """
    if not path.is_file():
        return None
    texts: dict[int, str] = {}
    seen_header = False
    for lines, first in tables.read_lines(path):
        for number, line in enumerate(lines.to_list(), start=first):
            words = line.split()
            if not seen_header:
                if words[:2] != ["org_id", "remap_id"]:
                    raise DataError(f"{path.name}, line {number}: expected org_id remap_id, got {tables.shown(line)}.")
                seen_header = True
                continue
            if not words:
                continue
            # An original id may hold spaces in a list of two columns.
            place = 1 if len(words) < 4 and path.name == "item_list.txt" else len(words) - 1
            number_text = words[place] if 0 < place < len(words) else ""
            if not number_text.isdecimal() or len(number_text) > 10 or int(number_text) > _MAX_ID:
                raise DataError(f"{path.name}, line {number}: expected an id and its number, got {tables.shown(line)}.")
            text = " ".join(words[:place])
            if texts.setdefault(int(number_text), text) != text:
                raise DataError(f"{path.name}, line {number}: number {number_text} is named a second time.")
    return Names(np.array(list(texts), np.int32), np.array(list(texts.values()), np.str_))


def _used(path: Path, ids: np.ndarray) -> Names | None:
    names = read_list(path)
    return None if names is None else Names(ids, names.of(ids))


class _Numbers(NamedTuple):
    """The numbers of a block of lines."""

    values: np.ndarray
    """`[n]` int32."""
    lines: np.ndarray
    """`[n]` the line of each, ascending, counted as people do."""


def _read_numbers(path: Path) -> Iterator[_Numbers]:
    """Yields the numbers of a text file without a header, block by block.

    Raises:
      DataError: if the file is missing, or names the first word that is no id.
    """
    import polars as pl

    spaces = 0
    for block, first in tables.read_lines(path):
        spaces += int(block.str.ends_with(" ").sum())
        words = block.str.replace_all("\t", " ", literal=True).str.split(" ")
        lines = np.repeat(np.arange(first, first + len(block)), words.list.len().to_numpy())
        flat = words.explode()
        filled = (flat != "").to_numpy()
        flat, lines = flat.filter(pl.Series(filled)), lines[filled]
        numbers = flat.cast(pl.Int64, strict=False).fill_null(-1).to_numpy()
        wrong = (numbers < 0) | (numbers > _MAX_ID)
        if wrong.any():
            at = int(np.argmax(wrong))
            expected = f"expected whole numbers from 0 to {_MAX_ID}"
            raise DataError(f"{path.name}, line {lines[at]}: {expected}, got {tables.shown(flat[at])}.")
        yield _Numbers(numbers.astype(np.int32), lines)
    findings.note("spaces", f"{path.name}: {spaces} lines end in a space.", spaces, file=path.name)


def _read_pairs(path: Path) -> np.ndarray:
    """Reads lines of a user and items as `[2, n]` int32."""
    parts, lonely = [np.zeros((2, 0), np.int32)], 0
    for values, lines in _read_numbers(path):
        starts = np.flatnonzero(np.diff(lines, prepend=0))
        counts = np.diff(starts, append=len(lines))
        lonely += int(np.count_nonzero(counts == 1))
        is_item = np.ones(len(values), np.bool_)
        is_item[starts] = False
        parts.append(np.stack([np.repeat(values[starts], counts - 1), values[is_item]]))
    findings.note(
        "lines_without_items", f"{path.name}: {lonely} lines name a user and no item.", lonely, file=path.name
    )
    return np.concatenate(parts, axis=1)


def _read_triples(folder: Path) -> np.ndarray | None:
    paths = [folder / name for name in GRAPHS if (folder / name).is_file()]
    if not paths:
        return None
    if len(paths) > 1:
        findings.note("several_files", f"{folder.name}: {paths[0].name} is read, and {paths[1].name} is not.")
    parts = [np.zeros((0, 3), np.int32)]
    for values, lines in _read_numbers(paths[0]):
        starts = np.flatnonzero(np.diff(lines, prepend=0))
        counts = np.diff(starts, append=len(lines))
        if (counts != 3).any():
            at = int(np.argmax(counts != 3))
            raise DataError(f"{paths[0].name}, line {lines[starts[at]]}: expected three numbers, got {counts[at]}.")
        parts.append(values.reshape(-1, 3))
    return np.concatenate(parts)
