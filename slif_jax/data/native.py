"""Reads a folder in this project's own layout: tab-separated tables and `.npy` features.

  interactions.tsv      user, item, split (train, valid or test); optional: rating, time
  items.tsv             optional: item, a column ending in `_id` with the original id, title, year
  users.tsv             optional: user, a column ending in `_id`
  kg.tsv                optional: head, relation, tail; the items are the entities 0 to I - 1
  entities.tsv          optional, for kg.tsv: entity, source_id or name
  relations.tsv         optional, for kg.tsv: relation, name
  <modality>.npy        optional: [I, d] float16, float32 or float64, row i is item i
  <modality>_present.npy   optional: [I] bool, which items have it

Columns may stand in any order, and others may stand between them.
"""

from pathlib import Path

import numpy as np

from slif_jax.data import features, findings, tables
from slif_jax.data.errors import DataError
from slif_jax.data.id_tables import IdTable
from slif_jax.data.raw import SPLITS, Interactions, Knowledge, Names, Raw, Selection

INTERACTIONS = "interactions.tsv"
KNOWLEDGE = "kg.tsv"


def detect(folder: Path) -> bool:
    """Says whether a folder is in this layout."""
    return (folder / INTERACTIONS).is_file()


def read(folder: Path, selection: Selection) -> Raw:
    """Reads a folder in this project's own layout.

    Args:
      folder: holds at least `interactions.tsv`.
      selection: says whether ratings and times are wanted.

    Returns:
      What the files say. Features stay on disk, memory-mapped, and are read as they are used.

    Raises:
      DataError: names the file and the line of the first thing that is wrong.
    """
    rows = _read_interactions(folder / INTERACTIONS, selection)
    item_table = _read_names(folder / "items.tsv", "item")
    user_table = _read_names(folder / "users.tsv", "user")
    num_users = _count(rows.users, None, "user", "users.tsv")
    num_items = _count(rows.items, item_table, "item", "items.tsv")
    if user_table is not None and len(user_table.ids) and user_table.ids.max() >= num_users:
        row = int(np.argmax(user_table.ids >= num_users))
        place = tables.place(folder / "users.tsv", row)
        raise DataError(f"{place}: user {user_table.ids[row]} has no interaction.")

    def locate(part: str, key: object) -> str:
        if isinstance(key, tuple) and rows.labels is not None:
            found = (rows.users == key[0]) & (rows.items == key[1]) & (rows.labels == SPLITS.index(part))
            return tables.place(folder / INTERACTIONS, int(np.argmax(found)))
        return f"{part}.npy" if key is None else f"{part}.npy, row {key}"

    return Raw(
        name=folder.resolve().name,
        interactions=rows,
        num_items=num_items,
        known_items=np.arange(num_items, dtype=np.int32),
        user_names=None if user_table is None else user_table.names("original"),
        item_names=None if item_table is None else item_table.names("original"),
        item_titles=None if item_table is None else item_table.names("titles"),
        knowledge=read_knowledge(folder, num_items),
        features={path.stem: features.read_modality(path, num_items) for path in features.modality_files(folder)},
        locate=locate,
        strict=True,
    )


def read_knowledge(folder: Path, num_items: int) -> Knowledge | None:
    """Reads `kg.tsv`, `entities.tsv` and `relations.tsv`.

    Args:
      folder: where they are looked for.
      num_items: the items are the entities below this number.

    Returns:
      The graph, or None without `kg.tsv`.

    Raises:
      DataError: names file and line.
    """
    path = folder / KNOWLEDGE
    if not path.exists():
        return None
    columns = ("head", "relation", "tail")
    found = tables.read_columns(path, dict.fromkeys(columns, tables.integers))
    triples = np.stack([found.pop(name) for name in columns], axis=1)
    entities = _read_names(folder / "entities.tsv", "entity")
    relations = _read_names(folder / "relations.tsv", "relation")
    if entities is not None:
        ends = triples[:, [0, 2]].ravel()
        strange = np.setdiff1d(ends[ends >= num_items], entities.ids)
        if len(strange):
            row = int(np.argmax((triples[:, [0, 2]] == strange[0]).any(axis=1)))
            text = f"{tables.place(path, row)}: entity {strange[0]} is neither an item nor in entities.tsv"
            more = f" ({len(strange)} such entities)" if len(strange) > 1 else ""
            findings.note("unknown_entities", f"{text}{more}; it is kept without a name.", len(strange))
    return Knowledge(
        triples,
        None if entities is None else entities.names("name") or Names(entities.ids),
        None if relations is None else relations.names("name") or Names(relations.ids),
    )


def _read_interactions(path: Path, selection: Selection) -> Interactions:
    parsers: dict[str, tables.Parser] = {"user": tables.integers, "item": tables.integers}
    parsers["split"] = tables.words(SPLITS)
    optional = {"rating": selection.needs_ratings, "time": selection.needs_times}
    here = tables.header(path)
    parsers |= {name: tables.floats for name, wanted in optional.items() if wanted and name in here}
    found = tables.read_columns(path, parsers)
    if not (found["split"] == 0).any():
        raise DataError(f"{path.name}: no row is in split 'train'; there is nothing to learn from.")
    return Interactions(found["user"], found["item"], found["split"], found.get("rating"), found.get("time"))


def _read_names(path: Path, key: str) -> IdTable | None:
    return IdTable(path, key) if path.exists() else None


def _count(ids: np.ndarray, table: IdTable | None, word: str, table_file: str) -> int:
    """Counts users or items, which must be numbered without a gap."""
    known = ids if table is None else np.concatenate([ids, table.ids])
    size = int(known.max()) + 1
    where = INTERACTIONS if table is None else f"{INTERACTIONS} and {table_file}"
    first_missing = _first_missing(known, size)
    if first_missing is not None:
        raise DataError(
            f"{where}: {word} {first_missing} is missing; {word}s must be numbered 0 to {size - 1} without a gap."
        )
    return size


def _first_missing(ids: np.ndarray, size: int) -> int | None:
    limit = min(size, len(ids) + 1)  # n ids leave a gap among the first n + 1 numbers, or none at all
    seen = np.zeros(limit, np.bool_)
    seen[ids[ids < limit]] = True
    return None if seen.all() else int(np.argmin(seen))
