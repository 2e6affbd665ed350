"""Reads a folder in this project's own layout: tab-separated tables and `.npy` features.

  interactions.tsv      user, item, split (train, valid or test)
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

from slif_jax.data import checks, features, findings, tables
from slif_jax.data.dataset import Dataset, numbers, sorted_unique
from slif_jax.data.errors import DataError

INTERACTIONS = "interactions.tsv"
SPLITS = ("train", "valid", "test")


def detect(folder: Path) -> bool:
    """Says whether a folder is in this layout."""
    return (folder / INTERACTIONS).is_file()


def read(folder: Path) -> Dataset:
    """Reads a folder in this project's own layout.

    Args:
      folder: holds at least `interactions.tsv`.

    Returns:
      The data set, checked. Features stay on disk, memory-mapped, and are read as they are used.

    Raises:
      DataError: names the file and the line of the first thing that is wrong.
    """
    users, items, splits = _read_interactions(folder / INTERACTIONS)
    item_table = _read_names(folder / "items.tsv", "item")
    user_table = _read_names(folder / "users.tsv", "user")
    num_users = _count(users, None, "user", "users.tsv")
    num_items = _count(items, item_table, "item", "items.tsv")
    if user_table is not None and len(user_table.ids) and user_table.ids.max() >= num_users:
        row = int(np.argmax(user_table.ids >= num_users))
        place = tables.place(folder / "users.tsv", row)
        raise DataError(f"{place}: user {user_table.ids[row]} has no interaction.")
    parts = {}
    for code, name in enumerate(SPLITS):
        here = splits == code
        parts[name], repeats = sorted_unique([users[here], items[here]])
        findings.note("duplicates", f"{folder.name}: {repeats} repeated rows were dropped from {name}.", repeats)
    triples, num_entities, num_relations, entity_names, relation_names = _read_graph(folder, num_items)
    dataset = Dataset(
        name=folder.resolve().name,
        num_users=num_users,
        num_items=num_items,
        num_entities=num_entities,
        num_relations=num_relations,
        **parts,
        triples=triples,
        features={path.stem: features.read_modality(path, num_items) for path in features.modality_files(folder)},
        user_ids=_spread(user_table, "original", num_users, numbered=True),
        item_ids=_spread(item_table, "original", num_items, numbered=True),
        item_titles=_spread_titles(item_table, num_items),
        entity_names=entity_names,
        relation_names=relation_names,
    )

    def locate(part: str, key: object) -> str:
        if isinstance(key, tuple):
            rows = (users == key[0]) & (items == key[1]) & (splits == SPLITS.index(part))
            return tables.place(folder / INTERACTIONS, int(np.argmax(rows)))
        return f"{part}.npy" if key is None else f"{part}.npy, row {key}"

    return checks.validate(dataset, locate)


def _read_interactions(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import polars as pl

    table = tables.read_strings(path, required=("user", "item", "split"))
    users, items = (tables.integers(table, column, path) for column in ("user", "item"))
    words = table["split"]
    codes = words.replace_strict(SPLITS, range(3), default=-1, return_dtype=pl.Int8).to_numpy()
    if len(codes) and codes.min() < 0:
        row = int(np.argmin(codes))
        raise DataError(
            f"{tables.place(path, row)}: expected train, valid or test in column 'split', got '{words[row] or ''}'."
        )
    if not (codes == 0).any():
        raise DataError(f"{path.name}: no row is in split 'train'; there is nothing to learn from.")
    return users, items, codes


class _Names:
    """A table of ids with names: `items.tsv`, `users.tsv`, `entities.tsv` or `relations.tsv`."""

    def __init__(self, path: Path, key: str):
        table = tables.read_strings(path, required=(key,))
        self.ids = tables.integers(table, key, path)
        order = np.argsort(self.ids, kind="stable")
        repeated = np.flatnonzero(np.diff(self.ids[order]) == 0)
        if len(repeated):
            row = int(order[repeated + 1].min())
            raise DataError(f"{tables.place(path, row)}: {key} {self.ids[row]} is named a second time.")
        columns = [column for column in table.columns if column != key]
        original = next((column for column in columns if column.endswith("_id")), None)
        name = "name" if "name" in columns else original
        self.original = None if original is None else tables.strings(table, original)
        self.names = None if name is None else tables.strings(table, name)
        self.titles = tables.strings(table, "title") if "title" in columns else None
        if self.titles is not None and "year" in columns:
            self.titles = with_years(self.titles, tables.strings(table, "year"))


def with_years(titles: np.ndarray, years: np.ndarray) -> np.ndarray:
    """Adds ` (1995)` to each title that has a year, so that two films of one title can be told apart."""
    pairs = zip(titles.tolist(), years.tolist(), strict=True)
    return np.array([f"{title} ({year})" if title and year else title for title, year in pairs], dtype=np.str_)


def _read_names(path: Path, key: str) -> _Names | None:
    return _Names(path, key) if path.exists() else None


def _count(ids: np.ndarray, table: _Names | None, word: str, table_file: str) -> int:
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


def _spread(table: _Names | None, field: str, size: int, *, numbered: bool = False) -> np.ndarray:
    """Puts a table's column in the order of the ids; what is not named gets its number, or ''."""
    column = None if table is None else getattr(table, field)
    result = numbers(size) if numbered else np.zeros(size, "U1")
    if table is None or column is None:
        return result
    result = result.astype(np.promote_types(result.dtype, column.dtype))
    result[table.ids] = column
    return result


def _spread_titles(table: _Names | None, size: int) -> np.ndarray | None:
    return None if table is None or table.titles is None else _spread(table, "titles", size)


def _read_graph(folder: Path, num_items: int):
    path = folder / "kg.tsv"
    if not path.exists():
        return np.zeros((0, 3), np.int32), num_items, 0, None, None
    table = tables.read_strings(path, required=("head", "relation", "tail"))
    columns = [tables.integers(table, column, path) for column in ("head", "relation", "tail")]
    triples, repeats = sorted_unique(columns)
    findings.note("repeated_triples", f"{folder.name}: {repeats} repeated triples were dropped.", repeats)
    sizes, names = [], []
    for key, ids in (("entity", triples[:, [0, 2]]), ("relation", triples[:, 1])):
        named = _read_names(folder / f"{'entities' if key == 'entity' else 'relations'}.tsv", key)
        known = [ids.ravel()] if named is None else [ids.ravel(), named.ids]
        size = max([int(part.max()) + 1 for part in known if len(part)], default=0)
        size = max(size, num_items) if key == "entity" else size
        sizes.append(size)
        names.append(None if named is None or named.names is None else _spread(named, "names", size))
    return triples, *sizes, *names
