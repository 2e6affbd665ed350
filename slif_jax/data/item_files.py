"""Reads a folder as Elliot has it, with features as Ducho writes them: one `.npy` file per item.

  train.tsv, test.tsv         user, item, perhaps rating and time; no header
  val.tsv                     optional, likewise
  dataset.tsv                 instead of the three: without a split
  <modality>/**/<item>.npy    optional: a vector, named like the item's id

A folder of vectors right below is a modality of its name; where the vectors lie deeper, the names of the folders are
joined with `-`, unless there is only one such folder. Ids are texts, numbered as in RecBole's files.
"""

from pathlib import Path

import numpy as np

from slif_jax.data import features, findings, tables
from slif_jax.data.dataset import Modality
from slif_jax.data.errors import DataError
from slif_jax.data.raw import Interactions, Names, Raw, Selection, Tokens, joined, ranked

PARTS = ("train.tsv", "val.tsv", "test.tsv")
WHOLE = "dataset.tsv"
_COLUMNS = ("user", "item", "rating", "time")


def detect(folder: Path) -> bool:
    """Says whether a folder is in this layout."""
    return (folder / PARTS[0]).is_file() or (folder / WHOLE).is_file()


def read(folder: Path, selection: Selection) -> Raw:
    """Reads a folder in this layout.

    Args:
      folder: holds `train.tsv` or `dataset.tsv`.
      selection: says whether ratings and times are wanted.

    Returns:
      What the files say. An item without a file in a folder lacks that modality.

    Raises:
      DataError: names the file, and the line where there is one, of the first thing that is wrong.
    """
    users, items = Tokens(), Tokens()
    split = (folder / PARTS[0]).is_file()
    if split and (folder / WHOLE).is_file():
        findings.note("several_files", f"{folder.name}: {', '.join(PARTS)} are read, and {WHOLE} is not.")
    parts = []
    for label, name in enumerate(PARTS if split else (WHOLE,)):
        if label == 0 or (folder / name).is_file():
            part = _read_part(folder / name, users, items, selection)
            parts.append(part._replace(labels=np.full(len(part.users), label, np.int8)))
    rows = joined(parts, given=split)
    user_names, user_ranks = ranked(users.texts())
    item_names, item_ranks = ranked(items.texts())
    places = dict(zip(item_names.tolist(), range(len(item_names)), strict=True))
    return Raw(
        name=folder.resolve().name,
        interactions=rows._replace(users=user_ranks[rows.users], items=item_ranks[rows.items]),
        num_items=len(item_names),
        user_names=Names(np.arange(len(user_names), dtype=np.int32), user_names),
        item_names=Names(np.arange(len(item_names), dtype=np.int32), item_names),
        features=_read_modalities(folder, places),
        locate=lambda part, key: part if key is None else f"{part}, row {key}",
    )


def _read_part(path: Path, users: Tokens, items: Tokens, selection: Selection) -> Interactions:
    first = tables.header(path)
    if len(first) < 2:
        raise DataError(f"{path.name}, line 1: expected a user and an item with a tab between them.")
    if "user" in first[0].lower() and "item" in first[1].lower():
        raise DataError(f"{path.name}, line 1: this file has no header in this format; remove the line.")
    names = [*_COLUMNS, *(f"column {number}" for number in range(5, len(first) + 1))][: len(first)]
    parsers: dict[str, tables.Parser] = {"user": users, "item": items}
    if selection.needs_ratings and "rating" in names:
        parsers["rating"] = tables.floats
    if selection.needs_times and "time" in names:
        parsers["time"] = tables.floats
    found = tables.read_columns(path, parsers, names=names)
    return Interactions(found["user"], found["item"], None, found.get("rating"), found.get("time"))


def _read_modalities(folder: Path, places: dict[str, int]) -> dict[str, Modality]:
    found = {}
    for top in sorted(path for path in folder.iterdir() if path.is_dir()):
        files: dict[Path, list[Path]] = {}
        for path in sorted(top.rglob("*.npy")):
            files.setdefault(path.parent, []).append(path)
        for leaf, paths in files.items():
            name = top.name if len(files) == 1 else "-".join(leaf.relative_to(folder).parts)
            modality = _read_vectors(name, paths, places)
            if modality is not None:
                found[name] = modality
    return found


def _read_vectors(name: str, paths: list[Path], places: dict[str, int]) -> Modality | None:
    """Reads one folder; None where none of its files belongs to an item."""
    known = [path for path in paths if path.stem in places]
    strange = len(paths) - len(known)
    text = f"{name}: {strange} files belong to no item and are not read."
    findings.note("unknown_items", text, strange, modality=name)
    if not known:
        return None
    values, present = None, np.zeros(len(places), np.bool_)
    for path in known:
        vector = features.read_array(path)
        if vector.dtype.kind != "f" or vector.dtype.itemsize not in (2, 4, 8):
            raise DataError(f"{name}/{path.name}: expected float16, float32 or float64, got {vector.dtype}.")
        if vector.size != max(vector.shape, default=1) or not vector.size:
            raise DataError(f"{name}/{path.name}: expected one vector, got shape {vector.shape}.")
        if values is None:
            kind = np.float16 if vector.dtype.itemsize == 2 else np.float32
            values = np.zeros((len(places), vector.size), kind)
        if vector.size != values.shape[1]:
            raise DataError(f"{name}/{path.name}: expected {values.shape[1]} numbers, got {vector.size}.")
        with np.errstate(over="ignore", invalid="ignore"):  # reported by `validate`
            values[places[path.stem]] = vector.ravel()
        present[places[path.stem]] = True
    return None if values is None else Modality(values, present)
