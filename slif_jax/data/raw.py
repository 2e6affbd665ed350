"""What every reader hands over, before anything is chosen: `assemble.assemble` makes a `Dataset` of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from slif_jax.data.checks import Locate
from slif_jax.data.dataset import Dataset, Modality, numbers
from slif_jax.data.errors import DataError
from slif_jax.data.tables import Cells

SPLITS = ("train", "valid", "test")
SPLIT_RULES = ("auto", "given", "ratio", "leave_one_out", "time_user", "time_global")


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which interactions are used, and how they are split.

    Attributes:
      split: one of `SPLIT_RULES`; `auto` takes the split that the data bring, else `ratio`. See `splits`.
      split_seed: seed of everything that is drawn for a split.
      k_core: users and items with fewer interactions are left out, until all that are left have so many; 0 keeps all.
      min_rating: interactions rated below are left out; 0 keeps all.

    Raises:
      DataError: where a value is outside its range.
    """

    split: str = "auto"
    split_seed: int = 2026
    k_core: int = 0
    min_rating: float = 0.0

    def __post_init__(self) -> None:
        if self.split not in SPLIT_RULES:
            raise DataError(f"`split` must be one of {', '.join(SPLIT_RULES)}: got '{self.split}'.")
        for name in ("split_seed", "k_core"):
            if getattr(self, name) < 0:
                raise DataError(f"`{name}` must be at least 0: got {getattr(self, name)}.")

    @property
    def needs_ratings(self) -> bool:
        """Whether a reader must bring ratings."""
        return self.min_rating > 0

    @property
    def needs_times(self) -> bool:
        """Whether a reader should bring times if it can."""
        return self.split in ("leave_one_out", "time_user", "time_global")

    @property
    def is_default(self) -> bool:
        """Whether data that bring a split are taken as they are."""
        return self.split in ("auto", "given") and not self.filters

    @property
    def filters(self) -> bool:
        """Whether interactions may be left out."""
        return self.k_core > 0 or self.min_rating > 0


class Names:
    """Texts for some numbers, None where only the numbers are known."""

    def __init__(self, ids: np.ndarray, texts: np.ndarray | None = None):
        order = np.argsort(ids, kind="stable")
        self.ids, self.texts = ids[order], None if texts is None else texts[order]

    def of(self, ids: np.ndarray, *, numbered: bool = False) -> np.ndarray:
        """The texts of ascending ids, `[n]` str; an id without one gives '', or its number."""
        texts = np.zeros(len(ids), "U1") if not numbered else numbers_of(ids)
        found = _found(self.ids, ids)
        if self.texts is not None and found.any():
            there = self.texts[np.searchsorted(self.ids, ids[found])]
            texts = texts.astype(np.promote_types(texts.dtype, there.dtype))
            texts[found] = there
        return texts


class Interactions(NamedTuple):
    """Rows as they stand in the source; n is their number."""

    users: np.ndarray
    """`[n]` int32, 0 or more."""
    items: np.ndarray
    """`[n]` int32, 0 or more."""
    labels: np.ndarray | None = None
    """`[n]` int8, the place in `SPLITS`; None where the source brings no split."""
    ratings: np.ndarray | None = None
    """`[n]` float64."""
    times: np.ndarray | None = None
    """`[n]` float64, in any unit."""

    def where(self, kept: np.ndarray) -> "Interactions":
        """The rows that a mask `[n]` or places name."""
        labels, ratings, times = (None if column is None else column[kept] for column in self[2:])
        return Interactions(self.users[kept], self.items[kept], labels, ratings, times)


def joined(parts: Sequence[Interactions], *, given: bool) -> Interactions:
    """Puts the parts of a split one after another; `given` tells whether they are one, or all there is.

    Ratings and times are there only if every part has them.
    """

    def column(name: str) -> np.ndarray | None:
        there = [value for part in parts if (value := getattr(part, name)) is not None]
        return np.concatenate(there) if len(there) == len(parts) else None

    users, items = (np.concatenate([getattr(part, name) for part in parts]) for name in ("users", "items"))
    return Interactions(users, items, column("labels") if given else None, column("ratings"), column("times"))


class Knowledge(NamedTuple):
    """A knowledge graph; the items are its first entities."""

    triples: np.ndarray
    """`[T, 3]` (head, relation, tail), in any order, perhaps with repeats."""
    entities: Names | None = None
    """Entities that are there though no triple has them, and what entities are called."""
    relations: Names | None = None
    """Likewise for relations."""


@dataclasses.dataclass(frozen=True)
class Raw:
    """All that a reader found.

    Attributes:
      name: for headings and file names.
      interactions: the rows.
      num_items: the items are 0 to `num_items - 1`, other entities begin there; features have so many rows.
      known_items: ascending numbers of the items that stay though nobody took them.
      user_names: original ids of users; None: their numbers.
      item_names: likewise.
      item_titles: what is shown to people.
      knowledge: the knowledge graph.
      features: modalities by name.
      locate: names file and line of something; see `checks.validate`.
      strict: whether a pair in several splits is an error; otherwise it stays in the first of them.
    """

    name: str
    interactions: Interactions
    num_items: int
    known_items: np.ndarray | None = None
    user_names: Names | None = None
    item_names: Names | None = None
    item_titles: Names | None = None
    knowledge: Knowledge | None = None
    features: Mapping[str, Modality] = dataclasses.field(default_factory=dict)
    locate: Locate | None = None
    strict: bool = False


def raw_of(dataset: Dataset) -> Raw:
    """A data set as if it had just been read, so that it can be filtered and split anew."""
    users, items = np.concatenate(list(dataset.splits.values())).T
    labels = np.repeat(np.arange(len(SPLITS), dtype=np.int8), [len(part) for part in dataset.splits.values()])

    def names(texts: np.ndarray | None, count: int) -> Names:
        return Names(np.arange(count, dtype=np.int32), texts)

    knowledge = Knowledge(
        dataset.triples,
        names(dataset.entity_names, dataset.num_entities),
        names(dataset.relation_names, dataset.num_relations),
    )
    return Raw(
        name=dataset.name,
        interactions=Interactions(users, items, labels),
        num_items=dataset.num_items,
        known_items=np.arange(dataset.num_items, dtype=np.int32),
        user_names=names(dataset.user_ids, dataset.num_users),
        item_names=names(dataset.item_ids, dataset.num_items),
        item_titles=None if dataset.item_titles is None else names(dataset.item_titles, dataset.num_items),
        knowledge=knowledge if dataset.num_relations else None,
        features=dataset.features,
    )


class Tokens:
    """Numbers for texts, in any order; `ranked` gives an order that rows do not matter to.

    An instance is a parser for `tables.read_columns`. Spaces around a token are removed; an empty one is an error.
    """

    def __init__(self) -> None:
        import polars as pl

        self._known = pl.Series([], dtype=pl.String)

    def texts(self) -> list[str]:
        """The tokens in the order of their codes."""
        return self._known.to_list()

    def __call__(self, cells: Cells) -> np.ndarray:
        """Codes as `[rows]` int32.

        Raises:
          DataError: names the first empty cell.
        """
        import polars as pl

        values = cells.stripped().values
        empty = values.is_null() | (values == "")
        if empty.any():
            raise cells.wrong(int(empty.arg_max() or 0), "expected an id")
        # Polars numbers known and new texts together, in any way; equal texts get equal places.
        count = len(self._known)
        places = pl.concat([self._known, values]).cast(pl.Categorical).to_physical().to_numpy()
        codes = np.full(int(places.max(initial=0)) + 1, -1, np.int32)
        codes[places[:count]] = np.arange(count, dtype=np.int32)
        places = places[count:]
        fresh = np.flatnonzero(codes[places] < 0)
        if len(fresh):
            rows = np.full(len(codes), -1, np.int64)
            rows[places[fresh]] = fresh
            used = np.flatnonzero(rows >= 0)
            codes[used] = np.arange(count, count + len(used), dtype=np.int32)
            self._known = pl.concat([self._known, values.gather(rows[used])])
        return codes[places]


def ranked(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Puts different texts in order: by number where all are plain whole numbers, else as texts.

    Returns:
      `[n]` str, the texts in order; and `[n]` int32, the place of each of them in it.
    """
    import polars as pl

    series = pl.Series(texts, dtype=pl.String)
    if series.str.contains("^(0|[1-9][0-9]{0,17})$").all():
        order = series.cast(pl.Int64).arg_sort().to_numpy()
    else:
        order = series.arg_sort().to_numpy()
    ranks = np.empty(len(series), np.int32)
    ranks[order] = np.arange(len(series), dtype=np.int32)
    return np.array(series.gather(order).to_list(), np.str_), ranks


def numbers_of(ids: np.ndarray) -> np.ndarray:
    """Numbers as texts, `[n]` str, in the narrowest type."""
    if len(ids) and ids[-1] == len(ids) - 1:
        return numbers(len(ids))
    return ids.astype(f"U{len(str(int(ids.max(initial=0))))}")


def _found(known: np.ndarray, ids: np.ndarray) -> np.ndarray:
    if not len(known):
        return np.zeros(len(ids), np.bool_)
    return known[np.minimum(np.searchsorted(known, ids), len(known) - 1)] == ids
