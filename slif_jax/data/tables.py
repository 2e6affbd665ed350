"""Reads text tables of any length block by block, and says which cell is wrong when one is.

A file is never in memory as a whole: a block of it becomes columns of strings, a parser turns each wanted column into a
small array, and the strings are dropped. So a table of ten million rows needs little more than its numbers.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from slif_jax.data import findings
from slif_jax.data.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_MAX_ID = 2**31 - 2
_BLOCK_BYTES = 1 << 24
_MAX_LINE_BYTES = 1 << 26
_LINE_BLOCK_BYTES = 1 << 22  # lines are taken apart word by word: more memory per byte
_SHOWN = 60
_TALLIES = {
    "windows_line_ends": "{count} lines end in CR LF.",
    "byte_order_mark": "the file starts with a byte order mark.",
    "spaces": "spaces were removed around {count} cells.",
    "no_last_newline": "the last line has no line end.",
}


class Cells(NamedTuple):
    """One column of a block of lines: what a parser is given."""

    values: "pl.Series"
    """Strings; an empty cell is null."""
    column: str
    path: Path
    first: int
    """Line number of the first row, counted as people do."""
    tally: Counter[str]
    """Counts what was repaired, by kind of finding."""
    spaced: bool
    """Whether there are spaces anywhere in the block."""

    def wrong(self, row: int, expected: str) -> DataError:
        """The error that names this cell."""
        got = shown(self.values[row] or "")
        column = f" in column '{self.column}'" if self.column else ""
        return DataError(f"{self.path.name}, line {self.first + row}: {expected}{column}, got {got}.")

    def stripped(self) -> "Cells":
        """The same cells without spaces around them."""
        if not self.spaced:
            return self
        bare = self.values.str.strip_chars()
        self.tally["spaces"] += int((bare != self.values).sum())
        return self._replace(values=bare)


Parser = Callable[[Cells], np.ndarray]


def shown(text: str) -> str:
    """A cell in quotes for a message: on one line, and not too long."""
    text = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return "'" + "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text) + "'"


def place(path: Path, row: int) -> str:
    """Names a data row of a table as people count: the header is line 1, so row 0 is line 2."""
    return f"{path.name}, line {row + 2}"


def integers(cells: Cells) -> np.ndarray:
    """Ids as `[rows]` int32, all 0 or more.

    Raises:
      DataError: names the first cell that is no integer, is negative, or is too large.
    """
    import polars as pl

    numbers = cells.values.cast(pl.Int64, strict=False)
    if numbers.null_count():
        numbers = cells.stripped().values.cast(pl.Int64, strict=False)
    if numbers.null_count():
        raise cells.wrong(int(numbers.is_null().arg_max() or 0), "expected an integer")
    ids = numbers.to_numpy()
    if len(ids) and ids.min() < 0:
        row = int(np.argmax(ids < 0))
        raise cells.wrong(row, "an id must be 0 or more")
    if len(ids) and ids.max() > _MAX_ID:
        row = int(np.argmax(ids > _MAX_ID))
        raise cells.wrong(row, "an id must be below 2**31 - 1")
    return ids.astype(np.int32)


def floats(cells: Cells) -> np.ndarray:
    """Ratings or times as `[rows]` float64.

    Raises:
      DataError: names the first cell that is no finite number.
    """
    import polars as pl

    numbers = cells.values.cast(pl.Float64, strict=False)
    if numbers.null_count():
        numbers = cells.stripped().values.cast(pl.Float64, strict=False)
    bad = numbers.is_null() | ~numbers.is_finite().fill_null(False)
    if bad.any():
        raise cells.wrong(int(bad.arg_max() or 0), "expected a finite number")
    return numbers.to_numpy()


def texts(cells: Cells) -> np.ndarray:
    """Words as `[rows]` str without spaces around them; an empty cell is ''."""
    return np.array(cells.stripped().values.fill_null("").to_list(), dtype=np.str_)


def words(known: Sequence[str], *, others: bool = False) -> Parser:
    """A parser for cells that hold one of a few words: `[rows]` int8, the place of the word in `known`.

    Args:
      known: the words.
      others: whether other words get the code -1; otherwise they are an error.
    """

    def parse(cells: Cells) -> np.ndarray:
        import polars as pl

        def codes_of(values: "pl.Series") -> np.ndarray:
            return values.replace_strict(known, range(len(known)), default=-1, return_dtype=pl.Int8).to_numpy()

        codes = codes_of(cells.values)
        if len(codes) and codes.min() < 0:
            codes = codes_of(cells.stripped().values)
        if not others and len(codes) and codes.min() < 0:
            choices = ", ".join(known[:-1]) + " or " + known[-1]
            raise cells.wrong(int(np.argmin(codes)), f"expected {choices}")
        return codes

    return parse


def header(path: Path) -> list[str]:
    """The cells of the first line.

    Raises:
      DataError: if the file is missing, empty, or its first line is not UTF-8.
    """
    if not path.is_file():
        raise DataError(f"{path.name}: no such file in {path.parent}.")
    try:
        with path.open("rb") as file:
            line = file.readline(_BLOCK_BYTES)
        if not line.strip():
            raise DataError(f"{path.name}: the file is empty; its first line must name the columns.")
        names = line.decode("utf-8-sig").rstrip("\r\n").split("\t")
    except UnicodeDecodeError:
        raise DataError(f"{path.name}, line 1: not UTF-8 text.") from None
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror}).") from None
    twice = next((name for name, count in Counter(name.strip() for name in names).items() if count > 1), None)
    if twice:
        raise DataError(f"{path.name}, line 1: the column {shown(twice)} is there twice; rename or remove one.")
    return names


def read_columns(
    path: Path, parsers: Mapping[str, Parser], *, names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Reads columns of a tab-separated file.

    Quotes have no meaning, Windows line ends and empty lines at the end are accepted. Columns may stand in any order.

    Args:
      path: the file.
      parsers: what to make of each wanted column, by the name of the column.
      names: names of the columns where the file has no header line; None: the first line names them.

    Returns:
      An array per wanted column; row `r` is line `r + 2`, or `r + 1` without a header.

    Raises:
      DataError: if the file is missing or empty, is not UTF-8, lacks a column, a line has too many cells, or a parser
        refuses a cell.
    """
    counts: Counter[str] = Counter()
    parts: dict[str, list[np.ndarray]] = {name: [] for name in parsers}
    for frame, first, spaced in _frames(path, list(parsers), names, counts):
        for name, parser in parsers.items():
            parts[name].append(parser(Cells(frame[name], name, path, first, counts, spaced)))
    _report(path, counts)
    # One column at a time, so that only one of them is there twice.
    return {name: np.concatenate(parts.pop(name)) for name in parsers}


def read_strings(path: Path, required: tuple[str, ...] = ()) -> "pl.DataFrame":
    """Reads every column of a small tab-separated file as strings; an empty cell is null.

    Args:
      path: the file; its first line names the columns, in any order.
      required: columns that must be there.

    Returns:
      One row for each line after the first, so row `r` is line `r + 2`.

    Raises:
      DataError: as `read_columns`.
    """
    import polars as pl

    found = header(path)
    _require(path, found, required)
    counts: Counter[str] = Counter()
    wanted = list(dict.fromkeys(found))
    frames = [pl.DataFrame(columns) for columns, _, _ in _frames(path, wanted, None, counts)]
    _report(path, counts)
    return pl.concat(frames)


def read_lines(path: Path) -> Iterator[tuple["pl.Series", int]]:
    """Yields blocks of a text file without a header, as (lines, number of the first one).

    Raises:
      DataError: if the file is missing or not UTF-8.
    """
    import polars as pl

    counts: Counter[str] = Counter()
    for block, first in _blocks(path, counts, size=_LINE_BLOCK_BYTES):
        try:
            text = block.decode()
        except UnicodeDecodeError:
            raise DataError(_unreadable(path, block, first, None)) from None
        lines = pl.Series([text]).str.split("\n").explode()
        yield lines.fill_null("").str.strip_suffix("\r"), first
    _report(path, counts)


def _require(path: Path, found: Sequence[str], required: Sequence[str]) -> None:
    for name in required:
        if name not in found:
            listed = ", ".join(shown(column)[1:-1] for column in found[:8]) + (", ..." if len(found) > 8 else "")
            raise DataError(f"{path.name}: column '{name}' is missing; found {listed}.")


def _report(path: Path, counts: Counter[str]) -> None:
    for kind, text in _TALLIES.items():
        count = counts.pop(kind, 0)
        findings.note(kind, f"{path.name}: {text.format(count=count)}", count, file=path.name)


def _frames(
    path: Path, wanted: Sequence[str], names: Sequence[str] | None, counts: Counter[str]
) -> Iterator[tuple[dict[str, "pl.Series"], int, bool]]:
    """Yields wanted columns, line of the first row, whether there are spaces; of at least one block, perhaps empty."""
    import polars as pl

    columns = list(names or header(path))
    _require(path, columns, wanted)
    places = [columns.index(name) for name in wanted]
    keys = [f"c{index}" for index in range(len(columns))]
    top = ("\t".join(keys) + "\n").encode()
    skip = 0 if names else 1
    empty = True
    for block, first in _blocks(path, counts, skip=skip):
        try:
            # All columns are read: among few of them a line with too many cells would go unnoticed.
            table = pl.read_csv(top + block, separator="\t", quote_char=None, infer_schema=False)
        except pl.exceptions.PolarsError as error:
            raise DataError(_unreadable(path, block, first, len(columns), str(error))) from None
        empty = False
        yield {name: table[keys[i]] for i, name in zip(places, wanted, strict=True)}, first, b" " in block
    if empty:
        yield {name: pl.Series([], dtype=pl.String) for name in wanted}, 1 + skip, False


def _blocks(
    path: Path, counts: Counter[str], *, skip: int = 0, size: int = _BLOCK_BYTES
) -> Iterator[tuple[bytes, int]]:
    """Yields whole lines, `size` bytes at a time, and the number of the first of them; without blank lines at the end.

    Args:
      path: the file.
      counts: what is noticed is counted here.
      skip: lines to pass over at the start.
      size: bytes to read at a time.
    """
    if not path.is_file():
        raise DataError(f"{path.name}: no such file in {path.parent}.")
    try:
        with path.open("rb") as file:
            if file.read(3) == b"\xef\xbb\xbf":
                counts["byte_order_mark"] += 1
            else:
                file.seek(0)
            for _ in range(skip):
                file.readline()
            number, rest = skip + 1, b""
            while chunk := file.read(size):
                counts["windows_line_ends"] += chunk.count(b"\r\n")
                counts["no_last_newline"] = int(not chunk.endswith((b"\n", b"\r")))
                rest += chunk
                if len(rest) > _MAX_LINE_BYTES and b"\n" not in rest:
                    raise DataError(f"{path.name}, line {number}: longer than {_MAX_LINE_BYTES >> 20} MiB; no table.")
                block = rest[: rest.rfind(b"\n") + 1].rstrip()
                if block:
                    yield _checked(path, block, number), number
                    number += block.count(b"\n") + 1
                    rest = rest[rest.index(b"\n", len(block)) + 1 :]
            if rest.strip():
                yield _checked(path, rest.rstrip(), number), number
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error.strerror}).") from None


def _checked(path: Path, block: bytes, first: int) -> bytes:
    """Refuses NUL, which text files do not have and NumPy's texts cannot end in."""
    at = block.find(b"\x00")
    if at >= 0:
        line = first + block[:at].count(b"\n")
        raise DataError(f"{path.name}, line {line}: holds a NUL character; the file is damaged.")
    return block


def _unreadable(path: Path, block: bytes, first: int, width: int | None, reason: str = "") -> str:
    """Looks for the line a fast reader stumbled over; slow, so only called once something is wrong."""
    for number, line in enumerate(block.split(b"\n"), start=first):
        try:
            line.decode()
        except UnicodeDecodeError:
            return f"{path.name}, line {number}: not UTF-8 text."
        cells = line.count(b"\t") + 1
        if width is not None and cells > width:
            return f"{path.name}, line {number}: expected {width} columns, got {cells}."
    return f"{path.name}: {' '.join(reason.split())[:200]}."
