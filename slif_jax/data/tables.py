"""Reads tab-separated tables fast, and says which cell is wrong when one is."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slif_jax.data.errors import DataError

if TYPE_CHECKING:
    import polars as pl

_MAX_ID = 2**31 - 2


def place(path: Path, row: int) -> str:
    """Names a data row of a table as people count: the header is line 1, so row 0 is line 2."""
    return f"{path.name}, line {row + 2}"


def read_strings(path: Path, required: tuple[str, ...] = ()) -> "pl.DataFrame":
    """Reads every column of a tab-separated file as strings.

    Quotes have no meaning, Windows line ends and empty lines at the end are accepted, an empty cell is null.

    Args:
      path: the file; its first line names the columns, in any order.
      required: columns that must be there.

    Returns:
      One row for each line after the first, so row `r` is line `r + 2`.

    Raises:
      DataError: if the file is missing or empty, is not UTF-8, lacks a column, or a line has too many cells.
    """
    import polars as pl

    if not path.is_file():
        raise DataError(f"{path.name}: no such file in {path.parent}.")
    try:
        table = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False, glob=False)
    except pl.exceptions.NoDataError:
        raise DataError(f"{path.name}: the file is empty; its first line must name the columns.") from None
    except pl.exceptions.PolarsError as error:
        raise DataError(_unreadable(path, str(error))) from None
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read ({error}).") from None
    for name in required:
        if name not in table.columns:
            raise DataError(f"{path.name}: column '{name}' is missing; found {', '.join(table.columns)}.")
    rows = table.height
    while rows and all(cell is None for cell in table.row(rows - 1)):
        rows -= 1
    return table.head(rows)


def integers(table: "pl.DataFrame", column: str, path: Path) -> np.ndarray:
    """Returns an id column as int32; the first cell that is no id is named in the error.

    Args:
      table: a table of strings, from `read_strings`.
      column: the column's name.
      path: the file the table came from, for the message.

    Returns:
      `[rows]` int32, all 0 or more.

    Raises:
      DataError: if a cell is not an integer, is negative, or is too large for int32.
    """
    import polars as pl

    cells = table[column]
    numbers = cells.cast(pl.Int64, strict=False)
    if numbers.null_count():
        row = int(numbers.is_null().arg_max() or 0)
        raise DataError(f"{place(path, row)}: expected an integer in column '{column}', got '{cells[row] or ''}'.")
    ids = numbers.to_numpy()
    if len(ids) and ids.min() < 0:
        row = int(np.argmax(ids < 0))
        raise DataError(f"{place(path, row)}: an id must be 0 or more in column '{column}', got {ids[row]}.")
    if len(ids) and ids.max() > _MAX_ID:
        row = int(np.argmax(ids > _MAX_ID))
        raise DataError(f"{place(path, row)}: an id must be below 2**31 - 1 in column '{column}', got {ids[row]}.")
    return ids.astype(np.int32)


def strings(table: "pl.DataFrame", column: str) -> np.ndarray:
    """Returns a column as an array of str; an empty cell is ''."""
    return np.array(table[column].fill_null("").to_list(), dtype=np.str_)


def _unreadable(path: Path, reason: str) -> str:
    """Looks for the line a fast reader stumbled over; slow, so only called once something is wrong."""
    with path.open("rb") as lines:
        header = next(lines, b"")
        width = header.count(b"\t") + 1
        for number, line in enumerate([header, *lines], start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"{path.name}, line {number}: not UTF-8 text."
            cells = line.count(b"\t") + 1
            if cells > width:
                return f"{path.name}, line {number}: expected {width} columns, got {cells}."
    return f"{path.name}: {reason.splitlines()[0]}."
