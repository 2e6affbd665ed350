"""Reads RecBole's atomic files: tab-separated tables whose header says `name:type`.

  <name>.inter       user_id:token, item_id:token; rating:float, timestamp:float where wanted
  <name>.train.inter, <name>.valid.inter, <name>.test.inter    instead: a split that is taken as it is
  <name>.item        optional: item_id:token, a modality per float_seq column, a title (token_seq)
  <name>.kg          optional: head_id:token, relation_id:token, tail_id:token
  <name>.link        optional: item_id:token, entity_id:token

Ids are texts: `1` and `01` are two. They are put in the order of numbers where all are plain whole numbers, else in the
order of texts. An item without a link stays; one that only `.item` or `.link` names does not become an item.
"""

from pathlib import Path

import numpy as np

from slif_jax.data import findings, tables
from slif_jax.data.dataset import Modality
from slif_jax.data.errors import DataError
from slif_jax.data.mmrec import inter_files, is_atomic
from slif_jax.data.raw import SPLITS, Interactions, Knowledge, Names, Raw, Selection, Tokens, joined, ranked

USER, ITEM, RATING, TIME = "user_id:token", "item_id:token", "rating:float", "timestamp:float"
HEAD, RELATION, TAIL, ENTITY = "head_id:token", "relation_id:token", "tail_id:token", "entity_id:token"


def detect(folder: Path) -> bool:
    """Says whether a folder is in this layout: `.inter` files with types in their headers."""
    return any(is_atomic(path) for path in inter_files(folder))


def read(folder: Path, selection: Selection) -> Raw:
    """Reads a folder in this layout.

    Args:
      folder: holds the files of one data set, or one of them is named like the folder.
      selection: says whether ratings and times are wanted.

    Returns:
      What the files say.

    Raises:
      DataError: names the file and the line of the first thing that is wrong.
    """
    stem = _stem(folder)
    users, items = Tokens(), Tokens()
    rows = _read_interactions(folder, stem, users, items, selection)
    user_names, user_ranks = ranked(users.texts())
    item_names, item_ranks = ranked(items.texts())
    rows = rows._replace(users=user_ranks[rows.users], items=item_ranks[rows.items])
    ranks = dict(zip(item_names.tolist(), range(len(item_names)), strict=True))
    titles, modalities = _read_items(folder / f"{stem}.item", ranks)
    return Raw(
        name=folder.resolve().name,
        interactions=rows,
        num_items=len(item_names),
        user_names=_all(user_names),
        item_names=_all(item_names),
        item_titles=titles,
        knowledge=_read_knowledge(folder, stem, ranks),
        features=modalities,
        locate=lambda part, key: f"{stem}.item, {part}" + ("" if key is None else f", row {key}"),
    )


def _all(texts: np.ndarray) -> Names:
    return Names(np.arange(len(texts), dtype=np.int32), texts)


def _stem(folder: Path) -> str:
    """The name before the suffixes of the files."""
    suffixes = tuple(f".{part}" for part in SPLITS)
    stems = []
    for path in inter_files(folder):
        stem = path.stem
        stems.append(stem.rpartition(".")[0] if stem.endswith(suffixes) else stem)
    stems = list(dict.fromkeys(stems))
    if not stems:
        raise DataError(f"{folder} holds no .inter file.")
    own = folder.resolve().name
    if len(stems) > 1:
        names = ", ".join(stems)
        if own not in stems:
            raise DataError(f"{folder} holds files of {names}: keep one data set, or name one like the folder.")
        findings.note("several_files", f"{folder.name}: {own} is read, of {names}.", len(stems) - 1)
    return own if own in stems else stems[0]


def _read_interactions(folder: Path, stem: str, users: Tokens, items: Tokens, selection: Selection) -> Interactions:
    parts = [(label, folder / f"{stem}.{name}.inter") for label, name in enumerate(SPLITS)]
    whole = folder / f"{stem}.inter"
    split = [(label, path) for label, path in parts if path.is_file()]
    if split and whole.is_file():
        findings.note("several_files", f"{folder.name}: the files of the split are read, and {whole.name} is not.")
    if split and split[0][0] != 0:
        raise DataError(f"{parts[0][1].name}: no such file in {folder}; the other parts of the split are there.")
    found = []
    for label, path in split or [(0, whole)]:
        here = tables.header(path)
        parsers: dict[str, tables.Parser] = {USER: users, ITEM: items}
        for name, wanted in ((RATING, selection.needs_ratings), (TIME, selection.needs_times)):
            if wanted and name in here:
                parsers[name] = tables.floats
        columns = tables.read_columns(path, parsers)
        labels = np.full(len(columns[USER]), label, np.int8)
        found.append(Interactions(columns[USER], columns[ITEM], labels, columns.get(RATING), columns.get(TIME)))
    return joined(found, given=bool(split))


class _Vectors:
    """A parser for a `float_seq` column: keeps the vectors, and gives which rows have one."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.width = 0

    def __call__(self, cells: tables.Cells) -> np.ndarray:
        """`[rows]` bool.

        Raises:
          DataError: names the first cell that is no vector of finite numbers, or of another width.
        """
        import polars as pl

        values = cells.stripped().values.fill_null("")
        present = (values != "").to_numpy()
        rows = np.flatnonzero(present)
        if not len(rows):
            return present
        words = values.filter(pl.Series(present)).str.split(" ")
        widths = words.list.len().to_numpy()
        self.width = self.width or int(widths[0])
        if (widths != self.width).any():
            at = int(np.argmax(widths != self.width))
            raise cells.wrong(int(rows[at]), f"expected {self.width} numbers, not {widths[at]},")
        numbers = words.explode().cast(pl.Float32, strict=False).fill_null(float("nan")).to_numpy()
        numbers = numbers.reshape(len(rows), self.width)
        bad = ~np.isfinite(numbers).all(axis=1)
        if bad.any():
            raise cells.wrong(int(rows[np.argmax(bad)]), "expected finite numbers with one space between them")
        self.parts.append(numbers)
        return present


def _read_items(path: Path, ranks: dict[str, int]) -> tuple[Names | None, dict[str, Modality]]:
    """Reads titles and modalities of the items that interactions name."""
    if not path.is_file():
        return None, {}
    here = tables.header(path)
    columns = {name: _Vectors() for name in here if name.endswith(":float_seq")}
    title = next((name for name in here if name.partition(":")[0].endswith("title") and ":token" in name), None)
    parsers: dict[str, tables.Parser] = {ITEM: tables.texts, **columns}
    if title is not None:
        parsers[title] = tables.texts
    found = tables.read_columns(path, parsers)
    places = np.array([ranks.get(token, -1) for token in found[ITEM].tolist()], np.int32)
    strange = int(np.count_nonzero(places < 0))
    findings.note("unknown_items", f"{path.name}: {strange} items are in no interaction and are left out.", strange)
    used = np.flatnonzero(places >= 0)
    order = used[np.argsort(places[used], kind="stable")]
    twice = np.flatnonzero(np.diff(places[order]) == 0)
    if len(twice):
        row = int(order[twice + 1].min())
        raise DataError(f"{tables.place(path, row)}: item {tables.shown(found[ITEM][row])} is there a second time.")
    modalities = {}
    for name, vectors in columns.items():
        if not vectors.width:
            continue
        rows = np.flatnonzero(found[name])
        known = places[rows] >= 0
        values = np.zeros((len(ranks), vectors.width), np.float32)
        present = np.zeros(len(ranks), np.bool_)
        values[places[rows[known]]] = np.concatenate(vectors.parts)[known]
        present[places[rows[known]]] = True
        modalities[name.partition(":")[0]] = Modality(values, present)
    return (None if title is None else Names(places[used], found[title][used])), modalities


def _read_knowledge(folder: Path, stem: str, ranks: dict[str, int]) -> Knowledge | None:
    path = folder / f"{stem}.kg"
    if not path.is_file():
        return None
    entities, relations = Tokens(), Tokens()
    found = tables.read_columns(path, {HEAD: entities, RELATION: relations, TAIL: entities})
    items = _read_links(folder / f"{stem}.link", ranks)
    other_names, _ = ranked([token for token in entities.texts() if token not in items])
    places = items | dict(zip(other_names.tolist(), range(len(ranks), len(ranks) + len(other_names)), strict=True))
    numbers = np.array([places[token] for token in entities.texts()], np.int32)
    relation_names, relation_ranks = ranked(relations.texts())
    triples = np.stack([numbers[found[HEAD]], relation_ranks[found[RELATION]], numbers[found[TAIL]]], axis=1)
    names = Names(np.array(list(places.values()), np.int32), np.array(list(places), np.str_))
    return Knowledge(triples, names, _all(relation_names))


def _read_links(path: Path, ranks: dict[str, int]) -> dict[str, int]:
    """Returns the item of each linked entity; of several rows for an item or an entity the last one counts."""
    if not path.is_file():
        return {}
    found = tables.read_columns(path, {ITEM: tables.texts, ENTITY: tables.texts})
    entity_of: dict[str, str] = {}
    item_of: dict[str, str] = {}
    overwritten = 0
    for item, entity in zip(found[ITEM].tolist(), found[ENTITY].tolist(), strict=True):
        old_entity, old_item = entity_of.get(item), item_of.get(entity)
        overwritten += (old_entity not in (None, entity)) or (old_item not in (None, item))
        if old_entity is not None:
            item_of.pop(old_entity, None)
        if old_item is not None:
            entity_of.pop(old_item, None)
        entity_of[item], item_of[entity] = entity, item
    text = f"{path.name}: {overwritten} rows link an item or entity again; the last row counts."
    findings.note("overwritten_links", text, overwritten, file=path.name)
    return {entity: ranks[item] for entity, item in item_of.items() if item in ranks}
