"""Finds the reader for a name or a folder."""

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from slif_jax.data import findings, item_files, kgat, matrices, mmrec, movielens, native, recbole, synthetic
from slif_jax.data.assemble import assemble
from slif_jax.data.dataset import Dataset
from slif_jax.data.errors import DataError
from slif_jax.data.fetch import default_data_dir
from slif_jax.data.raw import Raw, Selection, raw_of


class Reader(NamedTuple):
    """How to recognise a folder in one format, how to read it, and what it must hold."""

    detect: Callable[[Path], bool]
    read: Callable[[Path, Selection], Raw]
    needs: str


# A new format is one line here; the first reader that recognises a folder reads it.
READERS: dict[str, Reader] = {
    "native": Reader(native.detect, native.read, "interactions.tsv"),
    "mmrec": Reader(mmrec.detect, mmrec.read, "a .inter file with userID, itemID"),
    "recbole": Reader(recbole.detect, recbole.read, "a .inter file with user_id:token, item_id:token"),
    "kgat": Reader(kgat.detect, kgat.read, "train.txt"),
    "matrices": Reader(matrices.detect, matrices.read, "trnMat.pkl"),
    "item_files": Reader(item_files.detect, item_files.read, "train.tsv or dataset.tsv"),
}

BUILT_IN = ("ml-100k", "synthetic")


def load(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    split_seed: int = 2026,
    format: str = "auto",
    split: str = "auto",
    k_core: int = 0,
    min_rating: float | int = 0.0,
) -> Dataset:
    """Loads a data set.

    Args:
      name_or_path: `ml-100k`; `synthetic` or `synthetic:users=1000,items=500,seed=3`; a folder; or the name of a
        folder in `data_dir`. A folder that has a built-in name is written `./ml-100k`.
      data_dir: where downloads are kept and folders looked for; None is the user's cache folder.
      split_seed: seed of the split, where the data bring none or another one is asked for.
      format: the folder's format, or `auto` to find it by its files.
      split: `auto` (the split of the data, else `ratio`), `given`, `ratio`, `leave_one_out`, `time_user` or
        `time_global`.
      k_core: leaves out users and items with fewer interactions, again and again; 0 keeps all.
      min_rating: leaves out interactions rated below; 0 keeps all.

    Returns:
      The data set, checked.

    Raises:
      DataError: if there is no such data set, or it cannot be used; one line says what and where.

    Example:
      >>> from slif_jax import data
      >>> dataset = data.load("synthetic:users=60,items=40,seed=0")
      >>> dataset.num_users, dataset.num_items, sorted(dataset.features)
      (60, 40, ['text', 'visual'])
    """
    if format != "auto" and format not in READERS:
        raise DataError(f"Unknown format '{format}'.{_close(format, READERS)} Known: auto, {', '.join(READERS)}.")
    selection = Selection(split, split_seed, k_core, float(min_rating))
    name = str(name_or_path)
    root = Path(data_dir).expanduser() if data_dir is not None else default_data_dir()
    if isinstance(name_or_path, str) and format == "auto":
        if name == "ml-100k":
            return assemble(movielens.read_ml_100k(root, selection), selection)
        if name == "synthetic" or name.startswith("synthetic:"):
            dataset = synthetic.from_spec(name)
            return dataset if selection.is_default else assemble(raw_of(dataset), selection)
    folder = _find_folder(name, root)
    if format != "auto":
        return assemble(READERS[format].read(folder, selection), selection)
    formats = [name for name, reader in READERS.items() if reader.detect(folder)]
    if not formats:
        raise DataError(f"{folder} is no data set: {_needs()}")
    if len(formats) > 1:
        text = f"{folder.name}: read as {formats[0]}; it could be {' or '.join(formats[1:])} as well (format)."
        findings.note("several_files", text, len(formats) - 1)
    return assemble(READERS[formats[0]].read(folder, selection), selection)


def _find_folder(name: str, root: Path) -> Path:
    for folder in (Path(name).expanduser(), root / name):
        if folder.is_dir():
            return folder
    folders = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    names = [*BUILT_IN, *folders]
    raise DataError(
        f"Unknown data set '{name}'.{_close(name, names)} Built in: {', '.join(BUILT_IN)}. "
        f"Anything else must be a folder: {_needs()}"
    )


def _needs() -> str:
    return "it must hold " + ", or ".join(f"{reader.needs} ({name})" for name, reader in READERS.items()) + "."


def _close(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{matches[0]}'?" if matches else ""
