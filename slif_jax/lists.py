"""Ranked lists as files: original ids in and out, and TSV, JSONL or NPZ written block by block."""

import difflib
import os
from collections.abc import Iterable, Sequence
from io import BufferedWriter, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import polars as pl

FORMATS = ("tsv", "jsonl", "npz")

Binary = BinaryIO | BytesIO | BufferedWriter
Block = tuple[np.ndarray, np.ndarray, np.ndarray]
"""`[b]` rows, `[b, n]` items with -1 where a list is shorter, and `[b, n]` scores."""


class Columns(NamedTuple):
    """What the numbers of a block mean, and what they are called in a file."""

    row: str
    """Name of whom the lists are for: 'user', or 'item'."""
    row_ids: np.ndarray
    item: str
    """Name of what is listed."""
    item_ids: np.ndarray
    score: str
    titles: np.ndarray | None = None
    """Titles of what is listed; None without."""


def file_format(path: Path, name: str | None) -> str:
    """The format of an output: the named one, or the one its suffix says.

    Raises:
      ValueError: if no format is named and the suffix is none of them.
    """
    found = path.suffix.lower().removeprefix(".") if name is None else name
    if found not in FORMATS:
        raise ValueError(f"'{path.name}' must end in .tsv, .jsonl or .npz, or name the format: tsv, jsonl or npz.")
    return found


def write(blocks: Iterable[Block], columns: Columns, path: Path, *, format_name: str) -> int:
    """Writes ranked lists; the file appears when it is complete.

    Text is written block by block. An NPZ is written at the end: n items and scores of a row take 8 n bytes until
    then, less than the vectors they come from for lists shorter than D / 2.

    Args:
      blocks: lists of distinct rows.
      columns: ids and names.
      path: the file.
      format_name: one of `FORMATS`.

    Returns:
      How many items were listed.

    Raises:
      OSError: if the file cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            count = {"tsv": write_tsv, "jsonl": write_jsonl, "npz": write_npz}[format_name](blocks, columns, file)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def write_tsv(blocks: Iterable[Block], columns: Columns, file: Binary) -> int:
    """Writes a line per listed item: row, rank, item, score, and title where there are titles. With a header."""
    table = _Table(columns)
    names = [columns.row, "rank", columns.item, columns.score, *(["title"] if columns.titles is not None else [])]
    file.write(("\t".join(names) + "\n").encode())
    count = 0
    for block in blocks:
        frame = table.frame(block)
        frame.drop("position").write_csv(file, include_header=False, separator="\t", quote_style="never")
        count += len(frame)
    return count


def write_jsonl(blocks: Iterable[Block], columns: Columns, file: Binary) -> int:
    """Writes an object per row: its id, and the list of its items with score and title. Rows without items too."""
    import polars as pl

    table = _Table(columns)
    fields = [columns.item, columns.score, *(["title"] if columns.titles is not None else [])]
    plural = f"{columns.item}s"
    count = 0
    for block in blocks:
        frame = table.frame(block)
        lists = frame.group_by("position", maintain_order=True).agg(pl.struct(fields).alias(plural))
        rows = pl.DataFrame({columns.row: table.row_ids.gather(block[0])}).with_row_index("position")
        rows = rows.with_columns(pl.col("position").cast(pl.Int64)).join(lists, on="position", how="left")
        rows.select(columns.row, pl.col(plural).fill_null([])).write_ndjson(file)
        count += len(frame)
    return count


def write_npz(blocks: Iterable[Block], columns: Columns, file: Binary) -> int:
    """Writes the arrays themselves.

    `<row>s` `[m]` ids, `<item>s` `[m, n]` positions in `<item>_ids` and -1 for none, `<score>s` `[m, n]`, `titles`.
    """
    parts = list(blocks) or [(np.zeros(0, np.int64), np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32))]
    rows, items, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    arrays = {
        f"{columns.row}s": columns.row_ids[rows],
        f"{columns.item}s": items,
        f"{columns.score}s": scores,
        f"{columns.item}_ids": columns.item_ids,
    }
    if columns.titles is not None:
        arrays["titles"] = columns.titles
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    return int(np.count_nonzero(items >= 0))


class _Table:
    """Turns blocks into frames; the ids become polars columns once."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.row_ids, self.item_ids = (_cells(ids, r"[\t\r\n]") for ids in (columns.row_ids, columns.item_ids))
        self.titles = None if columns.titles is None else _cells(columns.titles, r"\s+").str.strip_chars()

    def frame(self, block: Block) -> "pl.DataFrame":
        """One line per listed item, with the position of its row in the block."""
        import polars as pl

        rows, items, scores = block
        place, rank = np.nonzero(items >= 0)
        listed = items[place, rank]
        cells = {
            "position": place,
            self.columns.row: self.row_ids.gather(rows[place]),
            "rank": rank + 1,
            self.columns.item: self.item_ids.gather(listed),
            self.columns.score: scores[place, rank],
        }
        if self.titles is not None:
            cells["title"] = self.titles.gather(listed)
        return pl.DataFrame(cells)


def _cells(texts: np.ndarray, white: str) -> "pl.Series":
    """Texts that break no line and no column: what matches `white` becomes a space."""
    import polars as pl

    return pl.Series(texts.tolist(), dtype=pl.String).str.replace_all(white, " ")


class Names(NamedTuple):
    """Original ids that somebody asked for."""

    source: str
    """Where they come from, for messages: a flag and its value."""
    lines: Sequence[str]
    """An id each; blank ones are skipped, repeated ones count once."""


def positions(known: np.ndarray, names: Names | None, *, what: str, place: str) -> np.ndarray:
    """Where original ids stand in the data.

    Args:
      known: `[n]` every id, as str.
      names: ids to look up; None stands for all.
      what: 'user' or 'item', for the message.
      place: name of the data, for the message.

    Returns:
      `[m]` ascending positions.

    Raises:
      ValueError: on an unknown id, with its line and the ids that look most like it.
    """
    if names is None:
        return np.arange(len(known))
    index = {str(name): position for position, name in enumerate(known)}
    found = set()
    for line, text in enumerate(names.lines, start=1):
        name = text.strip()
        if name and name not in index:
            where = f"{names.source}, line {line}" if len(names.lines) > 1 else names.source
            raise ValueError(f"{where}: {place} has no {what} '{name}'. {_nearest(list(index), name)}")
        if name:
            found.add(index[name])
    return np.array(sorted(found), np.int64)


def _nearest(known: list[str], name: str) -> str:
    alike = [other for other in known if abs(len(other) - len(name)) <= 2]
    close = difflib.get_close_matches(name, alike, n=3)
    if close:
        return f"The nearest ids are {', '.join(map(repr, close))}."
    return f"Its ids look like {', '.join(map(repr, known[:3]))}."
