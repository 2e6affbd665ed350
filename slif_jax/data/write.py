"""Writes a data set as a folder that can be read again: in this project's layout, or in MMRec's."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from slif_jax.data import features, mmrec, native
from slif_jax.data.dataset import Dataset, Modality
from slif_jax.data.errors import DataError
from slif_jax.data.raw import SPLITS

Say = Callable[[str], None]


def write(dataset: Dataset, folder: Path, layout: str, say: Say = lambda text: None) -> None:
    """Writes a data set.

    Numbers and splits stay as they are, so the folder gives equal graphs; original ids go along.

    Args:
      dataset: what to write.
      folder: must not be there, or be empty; it appears at once, when everything is written.
      layout: one of `LAYOUTS`.
      say: is told each file that is done.

    Raises:
      DataError: if the folder holds something, the layout is unknown, or an id or name cannot be written.
      OSError: if the disk refuses.
    """
    if layout not in LAYOUTS:
        raise DataError(f"`layout` must be one of {', '.join(LAYOUTS)}: got '{layout}'.")
    check_target(folder)
    for name in dataset.features:
        if not re.fullmatch(r"\w[\w.+-]*", name) or name.endswith("_present"):
            raise DataError(f"{dataset.name}: modality '{name}' cannot be the name of a file.")
    folder = folder.resolve()
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")  # no folder that somebody else has made
    partial.mkdir(parents=True)
    try:
        LAYOUTS[layout](dataset, partial, folder.name, say)
        if folder.is_dir():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_target(folder: Path) -> None:
    """Refuses a folder that holds something.

    Raises:
      DataError: says what to do.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; name another folder.")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder.")


def _write_native(dataset: Dataset, folder: Path, name: str, say: Say) -> None:
    del name
    _write_interactions(folder / native.INTERACTIONS, dataset, ("user", "item", "split"), np.array(SPLITS), say)
    _write_table(folder / "users.tsv", {"user": _count(dataset.num_users), "user_id": dataset.user_ids}, say)
    items = {"item": _count(dataset.num_items), "item_id": dataset.item_ids}
    if dataset.item_titles is not None:
        items["title"] = _plain(dataset.item_titles)
    _write_table(folder / "items.tsv", items, say)
    _write_graph(dataset, folder, say)
    for modality, found in dataset.features.items():
        _write_array(folder / f"{modality}.npy", found.values, say)
        if not found.present.all():
            _write_array(folder / f"{modality}_present.npy", found.present, say)


def _write_mmrec(dataset: Dataset, folder: Path, name: str, say: Say) -> None:
    columns = (mmrec.USER, mmrec.ITEM, mmrec.LABEL)
    _write_interactions(folder / f"{name}.inter", dataset, columns, np.arange(3), say)
    _write_table(folder / mmrec.USER_MAP, {"user_id": dataset.user_ids, mmrec.USER: _count(dataset.num_users)}, say)
    items = {"asin": dataset.item_ids, mmrec.ITEM: _count(dataset.num_items)}
    if dataset.item_titles is not None:
        items["title"] = _plain(dataset.item_titles)
    _write_table(folder / mmrec.ITEM_MAP, items, say)
    _write_graph(dataset, folder, say)
    for modality, found in dataset.features.items():
        _write_array(folder / f"{modality}{features.FEATURES}.npy", _with_means(found), say)
        missing = np.flatnonzero(~found.present)
        if len(missing):
            path = folder / features.missed_file(modality)
            path.write_text("".join(f"{item}\n" for item in missing.tolist()))
            say(path.name)


LAYOUTS: dict[str, Callable[[Dataset, Path, str, Say], None]] = {"native": _write_native, "mmrec": _write_mmrec}


def _count(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.int32)


def _plain(texts: np.ndarray) -> np.ndarray:
    """Texts for people, on one line each."""
    return np.array([" ".join(text.split()) for text in texts.tolist()], np.str_)


def _with_means(modality: Modality) -> np.ndarray:
    """The features with the mean of the present items in the rows of the others, as MMRec expects them."""
    if modality.present.all():
        return modality.values
    values = features.filled(modality)
    if modality.present.any():
        values[~modality.present] = values[modality.present].mean(axis=0)
    return values.astype(modality.values.dtype)


def _write_interactions(
    path: Path, dataset: Dataset, columns: tuple[str, str, str], words: np.ndarray, say: Say
) -> None:
    parts = list(dataset.splits.values())
    pairs = np.concatenate(parts)
    labels = np.repeat(words, [len(part) for part in parts])
    _write_table(path, dict(zip(columns, (pairs[:, 0], pairs[:, 1], labels), strict=True)), say)


def _write_graph(dataset: Dataset, folder: Path, say: Say) -> None:
    if not dataset.num_relations:
        return
    heads, relations, tails = dataset.triples.T
    _write_table(folder / native.KNOWLEDGE, {"head": heads, "relation": relations, "tail": tails}, say)
    for name, key, size, names in (
        ("entities.tsv", "entity", dataset.num_entities, dataset.entity_names),
        ("relations.tsv", "relation", dataset.num_relations, dataset.relation_names),
    ):
        _write_table(folder / name, {key: _count(size)} | ({} if names is None else {"name": _plain(names)}), say)


def _write_table(path: Path, columns: dict[str, np.ndarray], say: Say) -> None:
    import polars as pl

    frame = pl.DataFrame({name: pl.Series(np.ascontiguousarray(column)) for name, column in columns.items()})
    for name in frame.columns:
        if frame[name].dtype == pl.String:
            bad = frame[name] != frame[name].str.strip_chars()
            bad |= frame[name].str.contains_any(["\t", "\n", "\r"])
            if bad.any():
                text = frame[name][int(bad.arg_max() or 0)]
                raise DataError(f"{path.name}: {text!r} cannot be written in column '{name}'.")
    frame.write_csv(path, separator="\t", quote_style="never")
    say(path.name)


def _write_array(path: Path, array: np.ndarray, say: Say) -> None:
    np.save(path, np.asarray(array), allow_pickle=False)
    say(path.name)
