"""Full ranking of all items for the users of a split, on the device, in blocks of users.

Protocol `strict`: every item is a candidate except those of the user's training part (and, at test, of the validation
part); ties go to the lower item index; metrics are means over users, unrounded; users without training interactions
are reported apart.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from slif_jax import ops
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.metrics import metric_names, ranking_metrics
from slif_jax.model import Vectors
from slif_jax.rows import contains

SPLITS = ("valid", "test")


class RankingTask(NamedTuple):
    """Whom to rank for, what to leave out, and what counts as a hit. n users, padded to whole blocks."""

    users: Int[Array, " n"]
    seen_indptr: Int[Array, " n_plus_1"]
    seen: Int[Array, " s"]
    relevant_indptr: Int[Array, " n_plus_1"]
    relevant: Int[Array, " r"]


class Evaluation(NamedTuple):
    """Metrics per user, on the host."""

    users: np.ndarray
    """`[n]` user indices, ascending."""
    values: np.ndarray
    """`[n, metrics]` in the order of `metric_names(config.topk)`."""
    has_history: np.ndarray
    """`[n]`, whether the user has training interactions."""
    names: tuple[str, ...]

    def means(self) -> dict[str, float]:
        """Means over the users with training interactions."""
        return self._means(self.has_history)

    def cold_user_means(self) -> dict[str, float]:
        """Means over the users without training interactions."""
        return self._means(~self.has_history)

    def _means(self, mask: np.ndarray) -> dict[str, float]:
        if not mask.any():
            return dict.fromkeys(self.names, 0.0)
        return dict(zip(self.names, self.values[mask].mean(axis=0, dtype=np.float64).tolist(), strict=True))


def csr_rows(pairs: np.ndarray, users: np.ndarray, num_users: int) -> tuple[np.ndarray, np.ndarray]:
    """The items of each of `users`, as a CSR with a row per entry of `users`.

    Args:
      pairs: `[n, 2]` user, item.
      users: `[m]` distinct, ascending user indices.
      num_users: U.

    Returns:
      `[m + 1]` row bounds and the items, ascending within a row, int32.
    """
    row_of = np.full(num_users, -1, np.int64)
    row_of[users] = np.arange(len(users))
    rows, items = row_of[pairs[:, 0]], pairs[:, 1]
    keep = rows >= 0
    rows, items = rows[keep], items[keep]
    order = np.lexsort((items, rows))
    indptr = np.zeros(len(users) + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=len(users)), out=indptr[1:])
    return indptr, items[order].astype(np.int32)


def ranking_task(dataset: Dataset, split: str, block: int) -> RankingTask:
    """Lays out a split for `evaluate_vectors`.

    Args:
      dataset: loaded data.
      split: 'valid' or 'test'.
      block: users per block; the arrays are padded to a multiple of it with rows that have nothing relevant.

    Returns:
      `RankingTask` on the default device.

    Raises:
      ValueError: on another split.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}: got '{split}'.")
    relevant_pairs = dataset.valid if split == "valid" else dataset.test
    seen_pairs = dataset.train if split == "valid" else np.concatenate([dataset.train, dataset.valid])
    users = np.unique(relevant_pairs[:, 0])
    seen_indptr, seen = csr_rows(seen_pairs, users, dataset.num_users)
    relevant_indptr, relevant = csr_rows(relevant_pairs, users, dataset.num_users)
    padding = -len(users) % block
    return RankingTask(
        users=jnp.asarray(np.pad(users.astype(np.int32), (0, padding))),
        seen_indptr=jnp.asarray(np.pad(seen_indptr, (0, padding), mode="edge")),
        seen=jnp.asarray(seen),
        relevant_indptr=jnp.asarray(np.pad(relevant_indptr, (0, padding), mode="edge")),
        relevant=jnp.asarray(relevant),
    )


@functools.partial(jax.jit, static_argnames=("topk", "block"))
def rank_block(
    vectors: Vectors, task: RankingTask, start: Int[Array, ""], *, topk: tuple[int, ...], block: int
) -> Float[Array, "block metrics"]:
    """Metrics of `block` users of a task.

    Args:
      vectors: final vectors of users and items.
      task: from `ranking_task`.
      start: first row of the block.
      topk: cut-offs. Static.
      block: users at a time. Static.

    Returns:
      `[block, metrics]`; zeros for rows without relevant items.
    """
    users = jax.lax.dynamic_slice_in_dim(task.users, start, block)
    seen_bounds = jax.lax.dynamic_slice_in_dim(task.seen_indptr, start, block + 1)
    bounds = jax.lax.dynamic_slice_in_dim(task.relevant_indptr, start, block + 1)
    exclude = ops.Exclusions(seen_bounds, task.seen)
    ranked = ops.topk(vectors.users[users], vectors.items, max(topk), exclude=exclude).indices
    hits = contains(task.relevant, bounds[:-1], bounds[1:], ranked)
    return ranking_metrics(hits, bounds[1:] - bounds[:-1], topk)


def evaluate_vectors(vectors: Vectors, task: RankingTask, dataset: Dataset, config: Config) -> Evaluation:
    """Ranks all items for every user of a task.

    Args:
      vectors: final vectors.
      task: from `ranking_task` with `config.eval_block`.
      dataset: the data of the task.
      config: cut-offs and block size.

    Returns:
      `Evaluation`.

    Raises:
      ValueError: if the task was built for another block size.
    """
    block = config.eval_block
    num_rows = task.users.shape[0]
    if num_rows % block:
        raise ValueError(f"`task` has {num_rows} rows, no multiple of eval_block={block}. Build it with that block.")
    parts = [rank_block(vectors, task, np.int32(i), topk=config.topk, block=block) for i in range(0, num_rows, block)]
    names = metric_names(config.topk)
    relevant = np.diff(np.asarray(task.relevant_indptr)) > 0
    values = np.concatenate([np.asarray(part) for part in parts]) if parts else np.zeros((0, len(names)))
    users = np.asarray(task.users)[relevant]
    history = np.bincount(dataset.train[:, 0], minlength=dataset.num_users) > 0
    return Evaluation(users, values[relevant], history[users], names)
