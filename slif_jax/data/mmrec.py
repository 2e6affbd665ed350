"""Reads a folder as MMRec has it.

  <name>.inter              userID, itemID, x_label (0 train, 1 valid, 2 test); rating, timestamp where wanted
  <modality>_feat.npy       optional: [I, d], row i is item i
  missed_img_itemIDs.csv    optional: items without an image, a number a line (others: missed_<modality>_itemIDs.csv)
  u_id_mapping.csv          optional: user_id, userID; tab-separated in spite of its name
  i_id_mapping.csv          optional: asin, itemID; likewise; here also title
  kg.tsv ...                optional, as in the native layout: MMRec has no place for a knowledge graph

Numbers are indices: the items are 0 to the largest number of `.inter` or the id map, and feature rows must be as many.
"""

from pathlib import Path

import numpy as np

from slif_jax.data import features, findings, tables
from slif_jax.data.errors import DataError
from slif_jax.data.id_tables import IdTable
from slif_jax.data.native import read_knowledge
from slif_jax.data.raw import Interactions, Raw, Selection

USER, ITEM, LABEL, RATING, TIME = "userID", "itemID", "x_label", "rating", "timestamp"
USER_MAP, ITEM_MAP = "u_id_mapping.csv", "i_id_mapping.csv"


def detect(folder: Path) -> bool:
    """Says whether a folder is in this layout: a `.inter` file without types in its header."""
    files = inter_files(folder)
    return bool(files) and not any(is_atomic(path) for path in files)


def inter_files(folder: Path) -> list[Path]:
    """The `.inter` files of a folder, the one named like it first."""
    return sorted(folder.glob("*.inter"), key=lambda path: (path.stem != folder.resolve().name, path.name))


def is_atomic(path: Path) -> bool:
    """Whether the columns of a `.inter` file have types, as in RecBole's atomic files."""
    with path.open("rb") as file:
        return b":" in file.readline(1 << 16)


def read(folder: Path, selection: Selection) -> Raw:
    """Reads a folder in this layout.

    Args:
      folder: holds one `.inter` file, or several of which one is named like the folder.
      selection: says whether ratings and times are wanted.

    Returns:
      What the files say. Rows with another label than 0, 1, 2 are left out.

    Raises:
      DataError: names the file and the line of the first thing that is wrong.
    """
    path = _choose(folder)
    rows = _read_interactions(path, selection)
    users, items = _id_map(folder / USER_MAP, USER), _id_map(folder / ITEM_MAP, ITEM)
    known = np.zeros(0, np.int32) if items is None else items.ids
    num_items = max(int(rows.items.max(initial=-1)), int(known.max(initial=-1))) + 1
    modalities = features.read_feat_files(folder, num_items)
    if rows.labels is not None:
        rows = rows.where(rows.labels >= 0)
    return Raw(
        name=folder.resolve().name,
        interactions=rows,
        num_items=num_items,
        known_items=np.arange(num_items, dtype=np.int32) if modalities else np.sort(known),
        user_names=None if users is None else users.names("original"),
        item_names=None if items is None else items.names("original"),
        item_titles=None if items is None else items.names("titles"),
        knowledge=read_knowledge(folder, num_items),
        features=modalities,
        locate=lambda part, key: f"{part}{features.FEATURES}.npy" + ("" if key is None else f", row {key}"),
    )


def _id_map(path: Path, key: str) -> IdTable | None:
    return IdTable(path, key, any_column=True) if path.is_file() else None


def _choose(folder: Path) -> Path:
    files = inter_files(folder)
    if not files:
        raise DataError(f"{folder} holds no .inter file.")
    names = ", ".join(path.name for path in files)
    if len(files) > 1:
        if files[0].stem != folder.resolve().name:
            raise DataError(f"{folder} holds {names}: keep one, or name one like the folder.")
        findings.note("several_files", f"{folder.name}: {files[0].name} is read, of {names}.", len(files) - 1)
    return files[0]


def _read_interactions(path: Path, selection: Selection) -> Interactions:
    """Reads all rows; the label of those that are to be left out is -1."""
    here = tables.header(path)
    parsers: dict[str, tables.Parser] = {USER: tables.integers, ITEM: tables.integers}
    if LABEL in here:
        parsers[LABEL] = tables.words(("0", "1", "2"), others=True)
    for name, wanted in ((RATING, selection.needs_ratings), (TIME, selection.needs_times)):
        if wanted and name in here:
            parsers[name] = tables.floats
    found = tables.read_columns(path, parsers)
    labels = found.get(LABEL)
    if labels is not None:
        count = int(np.count_nonzero(labels < 0))
        text = f"{path.name}: {count} rows have another {LABEL} than 0, 1 or 2 and are left out."
        findings.note("unknown_labels", text, count, file=path.name)
    return Interactions(found[USER], found[ITEM], labels, found.get(RATING), found.get(TIME))
