"""Top-n lists for users, with the ids of the source, in blocks of users."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import jax
import numpy as np
from jax import Array

from slif_jax import ops
from slif_jax.checkpoint import Checkpoints
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.evaluate import csr_rows
from slif_jax.graphs import build_graphs
from slif_jax.model import Encoded, make_model
from slif_jax.prepare import load_dataset
from slif_jax.train_state import init_train_state
from slif_jax.workdir import Workdir, WorkdirError


class TrainedModel(NamedTuple):
    """What a finished run gives."""

    dataset: Dataset
    encoded: Encoded
    config: Config
    epoch: int


class Recommendations(NamedTuple):
    """Ranked items of a block of users."""

    users: np.ndarray
    """`[b]` user indices."""
    items: np.ndarray
    """`[b, n]` item indices, best first; -1 where a user has fewer than n unseen items."""
    scores: np.ndarray
    """`[b, n]`, -inf there."""


def load_trained(workdir: str | Path, *, data_dir: str | None = None) -> TrainedModel:
    """Restores the best epoch of a run and encodes all users and items.

    Args:
      workdir: folder of a run.
      data_dir: where fetched data sets are kept.

    Returns:
      `TrainedModel`.

    Raises:
      WorkdirError: if the folder holds no run or no checkpoint, or was trained on other data.
    """
    folder = Workdir(workdir)
    stored = folder.stored_config()
    if stored is None:
        raise WorkdirError(f"{folder.path} holds no config.json of a run. Train first: python -m experiments.train.")
    config, fingerprint = stored
    dataset = load_dataset(config, data_dir=data_dir)
    if fingerprint != dataset.fingerprint:
        raise WorkdirError(f"{folder.path} was trained on other data than '{config.dataset}' holds now.")
    graphs, model = build_graphs(dataset, config), make_model(dataset, config)
    checkpoints = Checkpoints(folder.checkpoints)
    try:
        last = checkpoints.last_epoch()
        if last is None:
            raise WorkdirError(f"{folder.path} holds no checkpoint yet. Train first: python -m experiments.train.")
        target = init_train_state(model, graphs, config)
        state, status = checkpoints.restore(target, last)
        if status.best_epoch not in (0, last):
            state, _ = checkpoints.restore(target, status.best_epoch)
    finally:
        checkpoints.close()
    encoded = jax.jit(model.encode)(state.params, graphs, state.correlation)
    return TrainedModel(dataset, encoded, config, int(state.epoch))


def known_items(dataset: Dataset) -> np.ndarray:
    """`[n, 2]` every interaction of every split: what a user has already seen."""
    return np.concatenate([dataset.train, dataset.valid, dataset.test])


@functools.partial(jax.jit, static_argnames="num_items")
def _rank(users: Array, items: Array, indptr: Array, seen: Array, *, num_items: int) -> ops.TopK:
    return ops.topk(users, items, num_items, exclude=ops.Exclusions(indptr, seen))


def top_n(
    encoded: Encoded,
    dataset: Dataset,
    users: np.ndarray,
    *,
    n: int,
    seen: np.ndarray | None = None,
    block: int = 2048,
) -> Iterator[Recommendations]:
    """The n best items of each user that the user has not seen, block by block.

    Args:
      encoded: from `load_trained` or `model.encode`.
      dataset: its data.
      users: `[m]` distinct, ascending user indices.
      n: items per user.
      seen: `[s, 2]` user, item pairs to leave out; None leaves out all known interactions.
      block: users at a time.

    Yields:
      `Recommendations` for at most `block` users.

    Raises:
      ValueError: if `users` are not distinct and ascending, or no users of the data.
    """
    users = np.asarray(users)
    if np.any(np.diff(users) <= 0) or np.any(users < 0) or np.any(users >= dataset.num_users):
        raise ValueError(f"`users` must be distinct, ascending and in [0, {dataset.num_users}).")
    indptr, items = csr_rows(known_items(dataset) if seen is None else seen, users, dataset.num_users)
    block = min(block, max(len(users), 1))
    for start in range(0, len(users), block):
        # Every block has the same shapes, the last one with empty rows at its end: compiled once.
        rows = np.arange(start, start + block).clip(max=len(users) - 1)
        bounds = indptr[np.arange(start, start + block + 1).clip(max=len(users))]
        ranked = _rank(encoded.final.users[users[rows]], encoded.final.items, bounds, items, num_items=n)
        real = len(users[start : start + block])
        yield Recommendations(
            users[start : start + block], np.asarray(ranked.indices)[:real], np.asarray(ranked.values)[:real]
        )


def write_tsv(blocks: Iterator[Recommendations], dataset: Dataset, file: TextIO) -> int:
    """Writes lists as tab-separated text with original ids.

    Args:
      blocks: from `top_n`.
      dataset: for ids and titles.
      file: where to write; columns user, rank, item, score, and title where the data have titles.

    Returns:
      Lines written, without the header.
    """
    titles = dataset.item_titles
    file.write("\t".join(["user", "rank", "item", "score", *(["title"] if titles is not None else [])]) + "\n")
    lines = 0
    for block in blocks:
        for user, items, scores in zip(block.users, block.items, block.scores, strict=True):
            for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1):
                if item < 0:
                    break
                cells = [dataset.user_ids[user], str(rank), dataset.item_ids[item], f"{score:.6g}"]
                if titles is not None:
                    cells.append(" ".join(str(titles[item]).split()))
                file.write("\t".join(cells) + "\n")
                lines += 1
    return lines


def user_indices(dataset: Dataset, ids: Sequence[str], *, source: str) -> np.ndarray:
    """Indices of users by their original ids.

    Args:
      dataset: the data.
      ids: original ids; blank ones are skipped, repeated ones count once.
      source: named in errors.

    Returns:
      `[m]` ascending indices.

    Raises:
      ValueError: on an id that the data do not have, with its line.
    """
    index = {str(user): position for position, user in enumerate(dataset.user_ids)}
    found = set()
    for line, text in enumerate(ids, start=1):
        name = text.strip()
        if not name:
            continue
        if name not in index:
            raise ValueError(f"{source}, line {line}: {dataset.name} has no user '{name}'.")
        found.add(index[name])
    return np.array(sorted(found), np.int64)
