"""Tables that name users, items, entities or relations by their numbers."""

from pathlib import Path

import numpy as np

from slif_jax.data import tables
from slif_jax.data.errors import DataError
from slif_jax.data.raw import Names


class IdTable:
    """A table with a column of ids, each once, and columns of texts.

    The original id is the first column whose name ends in `_id`, or with `any_column` the first besides the key; `name`
    is the column of that name, or the original id; `title` and `year` give titles.

    Raises:
      DataError: names file and line of an id that is none, or is there twice.
    """

    def __init__(self, path: Path, key: str, *, any_column: bool = False):
        here = tables.header(path)
        columns = [column for column in dict.fromkeys(here) if column != key]
        original = next((column for column in columns if column.endswith("_id")), None)
        if original is None and any_column and columns:
            original = columns[0]
        name = "name" if "name" in columns else original
        wanted = {column for column in (original, name, "title", "year") if column in columns}
        found = tables.read_columns(path, {key: tables.integers} | dict.fromkeys(sorted(wanted), tables.texts))
        self.ids = found[key]
        order = np.argsort(self.ids, kind="stable")
        repeated = np.flatnonzero(np.diff(self.ids[order]) == 0)
        if len(repeated):
            row = int(order[repeated + 1].min())
            raise DataError(f"{tables.place(path, row)}: {key} {self.ids[row]} is named a second time.")
        titles = found.get("title")
        if titles is not None and "year" in found:
            titles = with_years(titles, found["year"])
        self._texts = {"original": found.get(original or ""), "name": found.get(name or ""), "titles": titles}

    def names(self, field: str) -> Names | None:
        """The texts of a column, or None where there is no such column."""
        texts = self._texts[field]
        return None if texts is None else Names(self.ids, texts)


def with_years(titles: np.ndarray, years: np.ndarray) -> np.ndarray:
    """Adds ` (1995)` to each title that has a year, so that two films of one title can be told apart."""
    pairs = zip(titles.tolist(), years.tolist(), strict=True)
    return np.array([f"{title} ({year})" if title and year else title for title, year in pairs], dtype=np.str_)
