"""Top-n lists for users, with the ids of the source, in blocks of users."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jraph
import numpy as np
from jax import Array

from slif_jax import ops
from slif_jax.blend import named_weights
from slif_jax.checkpoint import Checkpoints
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.evaluate import among_candidates
from slif_jax.graphs import Graphs, build_graphs
from slif_jax.lists import Columns
from slif_jax.model import Encoded, Params, SlifMr, make_model
from slif_jax.prepare import load_dataset
from slif_jax.rows import csr_rows
from slif_jax.train_state import init_train_state
from slif_jax.workdir import Workdir, WorkdirError

PROFILES = ("train", "full")


class TrainedModel(NamedTuple):
    """What a finished run gives."""

    dataset: Dataset
    encoded: Encoded
    config: Config
    epoch: int
    model: SlifMr
    params: Params
    graphs: Graphs
    correlation: jraph.GraphsTuple
    """The correlation graph that took part in this epoch."""

    def linear_weights(self) -> dict[str, float]:
        """What each linear model weighs beside the vectors, by name."""
        return named_weights(self.model.linear_names, self.params)


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
      WorkdirError: if the folder holds no run or no checkpoint that can be used, or was trained on other data.
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
    shaped = dataclasses.replace(config, correlation_warm_up="empty")  # shapes alone count: nothing is searched for
    target: Any = jax.eval_shape(lambda: init_train_state(model, graphs, shaped))
    with contextlib.closing(Checkpoints(folder.checkpoints, config)) as checkpoints:
        found = checkpoints.restore_best(target)
    if found is None:
        raise WorkdirError(f"{folder.path} holds no checkpoint yet. Train first: python -m experiments.train.")
    state = found[0]
    params = state.serving_params
    encoded = jax.jit(model.encode)(params, graphs, state.correlation)
    return TrainedModel(dataset, encoded, config, int(state.epoch), model, params, graphs, state.correlation)


def known_items(dataset: Dataset, profile: str = "full") -> np.ndarray:
    """What a user has already seen, and is not recommended.

    Args:
      dataset: the data.
      profile: 'train', the interactions that were trained on; or 'full', those of every split.

    Returns:
      `[n, 2]` user, item.

    Raises:
      ValueError: on another profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"`profile` must be 'train' or 'full': got '{profile}'.")
    return dataset.train if profile == "train" else np.concatenate([dataset.train, dataset.valid, dataset.test])


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
    candidates: np.ndarray | None = None,
    block: int = 2048,
) -> Iterator[Recommendations]:
    """The n best items of each user that the user has not seen, block by block.

    Args:
      encoded: from `load_trained` or `model.encode`.
      dataset: its data.
      users: `[m]` distinct, ascending user indices.
      n: items per user; there are never more columns than items to choose from.
      seen: `[s, 2]` user, item pairs to leave out; None leaves out the interactions of every split.
      candidates: `[c]` distinct, ascending items to choose from; None chooses from all.
      block: users at a time.

    Yields:
      `Recommendations` for at most `block` users.

    Raises:
      ValueError: if `users` or `candidates` are not distinct and ascending, or not of the data, `seen` holds other
        pairs, or `n` or `block` is below 1.
    """
    if n < 1 or block < 1:
        raise ValueError(f"`n` and `block` must be at least 1: got {n} and {block}.")
    users = _ascending("users", users, dataset.num_users)
    seen, vectors = known_items(dataset) if seen is None else _pairs(seen, dataset), encoded.ranked.items
    if candidates is not None:
        candidates = _ascending("candidates", candidates, dataset.num_items)
        seen, vectors = among_candidates(seen, candidates, dataset.num_items), vectors[candidates]
    indptr, items = csr_rows(seen, users, dataset.num_users)
    n = min(n, vectors.shape[0])
    block = min(block, max(len(users), 1))
    for start in range(0, len(users), block):
        # Every block has the same shapes, the last one with empty rows at its end: compiled once.
        rows = np.arange(start, start + block).clip(max=len(users) - 1)
        bounds = indptr[np.arange(start, start + block + 1).clip(max=len(users))]
        ranked = _rank(encoded.ranked.users[users[rows]], vectors, bounds, items, num_items=n)
        real = len(users[start : start + block])
        found = np.asarray(ranked.indices)[:real]
        if candidates is not None:
            found = np.where(found >= 0, candidates[found], -1).astype(np.int32)
        yield Recommendations(users[start : start + block], found, np.asarray(ranked.values)[:real])


def _ascending(name: str, ids: np.ndarray, count: int) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ValueError(f"`{name}` must be a vector of integers: got {ids.dtype} of shape {ids.shape}.")
    ids = ids.astype(np.int64)
    if np.any(np.diff(ids) <= 0) or np.any(ids < 0) or np.any(ids >= count):
        raise ValueError(f"`{name}` must be distinct, ascending and in [0, {count}).")
    return ids


def _pairs(pairs: np.ndarray, dataset: Dataset) -> np.ndarray:
    pairs, sizes = np.asarray(pairs), (dataset.num_users, dataset.num_items)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or (pairs.size and pairs.dtype.kind not in "iu"):
        raise ValueError(f"`seen` must be [n, 2] integers, user and item: got {pairs.dtype} of shape {pairs.shape}.")
    if np.any((pairs < 0) | (pairs >= sizes)):
        raise ValueError(f"`seen` must hold users in [0, {sizes[0]}) and items in [0, {sizes[1]}).")
    return pairs.astype(np.int64)


def columns(dataset: Dataset) -> Columns:
    """How recommendations are named in a file; see `lists.write`."""
    return Columns("user", dataset.user_ids, "item", dataset.item_ids, "score", dataset.item_titles)
