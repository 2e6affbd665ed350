"""Full ranking of the items for the users of a split, under a protocol, in blocks of users.

The device ranks and says which ranks are hits; metrics are computed from those on the host, in float64, so that they
can be compared digit by digit. `slif_jax.protocols` holds the rules.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Int8

from slif_jax import ops
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.data.checks import fitting
from slif_jax.kernels.topk.reference import best
from slif_jax.metrics import metric_names, ranking_metrics
from slif_jax.model import Vectors
from slif_jax.protocols import Protocol, with_rules
from slif_jax.rows import contains, csr_rows

SPLITS = ("valid", "test")


class TaskArrays(NamedTuple):
    """What the device needs to rank. n users, padded to whole blocks."""

    users: Int[Array, " n"]
    seen_indptr: Int[Array, " n_plus_1"]
    seen: Int[Array, " s"]
    """Positions among the candidates."""
    relevant_indptr: Int[Array, " n_plus_1"]
    relevant: Int[Array, " r"]
    """Item ids."""
    candidates: Int[Array, " c"] | None
    """Item ids in the order in which ties are broken; None ranks all items in their own order."""
    is_cold: Bool[Array, " items"]


@dataclasses.dataclass(frozen=True, eq=False)
class RankingTask:
    """A split laid out for `evaluate_vectors`: whom to rank for, what to leave out, and what counts as a hit."""

    protocol: Protocol
    split: str
    topk: tuple[int, ...]
    block: int
    arrays: TaskArrays
    users: np.ndarray
    """`[n]` user indices, ascending."""
    num_relevant: np.ndarray
    """`[n]` relevant items |R| of each user, counted as the protocol counts them."""
    num_cold: np.ndarray
    """`[n]` how many of those have no training interaction."""
    history: np.ndarray
    """`[n]` training interactions of each user."""


class Evaluation(NamedTuple):
    """What was found for each user, on the host."""

    users: np.ndarray
    """`[n]` user indices, ascending."""
    values: np.ndarray
    """`[n, metrics]` float64, in the order of `names`."""
    has_history: np.ndarray
    """`[n]`, whether the user has training interactions."""
    names: tuple[str, ...]
    hits: np.ndarray
    """`[n, K*]` int8 by rank: 0 no hit, 1 an item with training interactions, 2 one without."""
    task: RankingTask

    @property
    def counted(self) -> np.ndarray:
        """`[n]`, whether the user takes part in the means of the protocol."""
        if self.task.protocol.cold_users == "count":
            return np.ones(len(self.users), np.bool_)
        return self.has_history

    def means(self) -> dict[str, float]:
        """Means over users, as the protocol counts and rounds them."""
        return self._means(self.counted)

    def cold_user_means(self) -> dict[str, float]:
        """Means over the users without training interactions."""
        return self._means(~self.has_history)

    def _means(self, mask: np.ndarray) -> dict[str, float]:
        if not mask.any():
            return dict.fromkeys(self.names, 0.0)
        means = self.values[mask].mean(axis=0)
        digits = self.task.protocol.round_digits
        if digits is not None:
            means = np.round(means, digits)
        return dict(zip(self.names, means.tolist(), strict=True))


def among_candidates(pairs: np.ndarray, candidates: np.ndarray, num_items: int) -> np.ndarray:
    """Pairs with the item's place among the candidates; pairs of other items are left out.

    Args:
      pairs: `[n, 2]` user, item.
      candidates: `[c]` distinct items.
      num_items: I.

    Returns:
      `[m, 2]` user, place.
    """
    place = np.full(num_items, -1, np.int64)
    place[candidates] = np.arange(len(candidates))
    pairs = np.stack([pairs[:, 0], place[pairs[:, 1]]], axis=1)
    return pairs[pairs[:, 1] >= 0]


def ranking_task(
    dataset: Dataset,
    split: str,
    config: Config,
    *,
    protocol: Protocol | None = None,
    candidates: np.ndarray | None = None,
) -> RankingTask:
    """Lays out a split for `evaluate_vectors`.

    Args:
      dataset: loaded data.
      split: 'valid' or 'test'.
      config: cut-offs, and users per block: the arrays are padded to a multiple of it with rows of nothing.
      protocol: the rules; None takes `config.rules()`.
      candidates: `[c]` item ids that may be recommended, for a protocol whose candidates are 'listed'.

    Returns:
      `RankingTask`, its arrays on the default device.

    Raises:
      ValueError: on another split, or if candidates are given to a protocol that does not list them, or are missing or
        no items, or the data break a rule of `Dataset`.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}: got '{split}'.")
    fitting(dataset)
    protocol = config.rules() if protocol is None else protocol
    history = np.bincount(dataset.train[:, 0], minlength=dataset.num_users)
    is_cold = np.bincount(dataset.train[:, 1], minlength=dataset.num_items) == 0

    relevant_pairs = dataset.splits[split]
    if protocol.dedup:
        relevant_pairs = relevant_pairs[np.unique(_keys(relevant_pairs, dataset), return_index=True)[1]]
    if protocol.cold_users == "drop":
        relevant_pairs = relevant_pairs[history[relevant_pairs[:, 0]] > 0]
    seen_pairs = dataset.train
    if split == "test" and protocol.mask == "train+valid":
        seen_pairs = np.concatenate([dataset.train, dataset.valid])
    if not protocol.mask_own_positives:
        seen_pairs = seen_pairs[~np.isin(_keys(seen_pairs, dataset), _keys(relevant_pairs, dataset))]

    users, num_relevant = np.unique(relevant_pairs[:, 0], return_counts=True)
    cold_rows = relevant_pairs[is_cold[relevant_pairs[:, 1]], 0]
    order = _candidate_order(dataset, protocol, is_cold, candidates)
    if order is not None:
        seen_pairs = among_candidates(seen_pairs, order, dataset.num_items)

    seen_indptr, seen = csr_rows(seen_pairs, users, dataset.num_users)
    relevant_indptr, relevant = csr_rows(relevant_pairs, users, dataset.num_users)
    padding = -len(users) % config.eval_block
    arrays = TaskArrays(
        users=jnp.asarray(np.pad(users.astype(np.int32), (0, padding))),
        seen_indptr=jnp.asarray(np.pad(seen_indptr, (0, padding), mode="edge")),
        seen=jnp.asarray(seen),
        relevant_indptr=jnp.asarray(np.pad(relevant_indptr, (0, padding), mode="edge")),
        relevant=jnp.asarray(relevant),
        candidates=None if order is None else jnp.asarray(order.astype(np.int32)),
        is_cold=jnp.asarray(is_cold),
    )
    return RankingTask(
        protocol=protocol,
        split=split,
        topk=config.topk,
        block=config.eval_block,
        arrays=arrays,
        users=users,
        num_relevant=num_relevant,
        num_cold=np.bincount(cold_rows, minlength=dataset.num_users)[users],
        history=history[users],
    )


def _keys(pairs: np.ndarray, dataset: Dataset) -> np.ndarray:
    return pairs[:, 0].astype(np.int64) * dataset.num_items + pairs[:, 1]


def _candidate_order(
    dataset: Dataset, protocol: Protocol, is_cold: np.ndarray, listed: np.ndarray | None
) -> np.ndarray | None:
    """The candidates, first the one that wins a tie; None for all items in their own order."""
    if (listed is not None) != (protocol.candidates == "listed"):
        raise ValueError(
            f"`candidates` must be given if and only if the protocol's are 'listed': they are '{protocol.candidates}'."
        )
    if protocol.candidates == "all" and protocol.ties == "lower":
        return None
    if listed is not None:
        order = np.unique(listed)
        if order.dtype.kind not in "iu" and len(order):
            raise ValueError(f"`candidates` must be item ids, which are integers: got dtype {order.dtype}.")
        if not len(order) or order[0] < 0 or order[-1] >= dataset.num_items:
            got = f"{order[0]} to {order[-1]}" if len(order) else "none"
            raise ValueError(f"`candidates` must be item ids from 0 to {dataset.num_items - 1}: got {got}.")
    else:
        order = np.flatnonzero(~is_cold) if protocol.candidates == "train" else np.arange(dataset.num_items)
    by_id = order if protocol.ties == "lower" else order[::-1]
    return np.random.default_rng(0).permutation(order) if protocol.ties == "shuffled" else by_id


class Listed(NamedTuple):
    """The lists of a block of users."""

    items: Int[Array, "block width"]
    """Items by rank, as places among the candidates where the task has those; -1 where there is none."""
    hits: Int8[Array, "block width"]
    """0 no hit, 1 a hit on an item with training interactions, 2 on one without."""


@functools.partial(jax.jit, static_argnames=("width", "block"))
def list_block(vectors: Vectors, arrays: TaskArrays, start: Int[Array, ""], *, width: int, block: int) -> Listed:
    """The items that are ranked first for `block` users of a task, and which of them are hits.

    Args:
      vectors: final vectors of users and items.
      arrays: of a `RankingTask`.
      start: first row of the block.
      width: length of the lists. Static.
      block: users at a time. Static.

    Returns:
      `Listed`.
    """
    users = jax.lax.dynamic_slice_in_dim(arrays.users, start, block)
    seen_bounds = jax.lax.dynamic_slice_in_dim(arrays.seen_indptr, start, block + 1)
    bounds = jax.lax.dynamic_slice_in_dim(arrays.relevant_indptr, start, block + 1)
    exclude = ops.Exclusions(seen_bounds, arrays.seen)
    items: Float[Array, "c d"] = vectors.items
    if arrays.candidates is not None:
        items = items[arrays.candidates]
    ranked = ops.topk(vectors.users[users], items, width, exclude=exclude).indices
    return Listed(ranked, _hits(ranked, arrays, bounds))


def _hits(ranked: Int[Array, "block width"], arrays: TaskArrays, bounds: Array) -> Int8[Array, "block width"]:
    """What stands at each rank, a place among the candidates or -1, as `Listed.hits` tells it."""
    if arrays.candidates is not None:
        ranked = jnp.where(ranked < 0, -1, arrays.candidates[ranked])
    hits = contains(arrays.relevant, bounds[:-1], bounds[1:], ranked)
    kind = 1 + arrays.is_cold[ranked].astype(jnp.int8)
    return jnp.where(hits, kind, jnp.int8(0))


def evaluate_vectors(vectors: Vectors, task: RankingTask) -> Evaluation:
    """Ranks the candidates for every user of a task.

    Args:
      vectors: final vectors. A score that is NaN or -inf is never listed.
      task: from `ranking_task`.

    Returns:
      `Evaluation`.

    Raises:
      ValueError: if the vectors are not those of the task's data.
    """
    _check_vectors(vectors, task)
    starts = range(0, task.arrays.users.shape[0], task.block)
    width = list_width(task)
    parts = [list_block(vectors, task.arrays, np.int32(i), width=width, block=task.block).hits for i in starts]
    return evaluation_of(task, np.concatenate([np.zeros((0, width), np.int8), *(np.asarray(part) for part in parts)]))


def _check_vectors(vectors: Vectors, task: RankingTask) -> None:
    users, items = vectors.users.shape, vectors.items.shape
    needed, num_items = int(task.users.max(initial=-1)) + 1, task.arrays.is_cold.shape[0]
    if len(users) != 2 or len(items) != 2 or users[1] != items[1] or users[0] < needed or items[0] != num_items:
        raise ValueError(
            f"`vectors` must have a row per user ({needed} or more) and per item ({num_items}), all equally wide: got "
            f"shapes {users} and {items}. Do vectors and task come from the same data?"
        )


def evaluate_scores(
    score_fn: Callable[[np.ndarray], Array | np.ndarray],
    dataset: Dataset,
    split: str,
    *,
    protocol: str | Protocol = "strict",
    topk: tuple[int, ...] = (10, 20),
    candidates: np.ndarray | None = None,
    block: int = 256,
) -> Evaluation:
    """Ranks all items for every user of a split by the scores of any model, under a named protocol.

    Args:
      score_fn: takes `[b]` int32 user indices and gives `[b, I]` scores, higher is better, of all items in their order:
        `lambda users: scores[users]` for a matrix. It is not traced, and always called with equally many users: the
        last call is filled up with user 0. Scores are compared in float32; NaN and -inf are never listed.
      dataset: loaded data. What is masked and what counts as a hit is taken from it, never from `score_fn`.
      split: 'valid' or 'test'.
      protocol: a name in `protocols.PROTOCOLS`, or a `Protocol`.
      topk: cut-offs K.
      candidates: as in `ranking_task`.
      block: users at a time; memory is `[block, I]`.

    Returns:
      `Evaluation`: `means()`, and `groups.group_results` takes it.

    Raises:
      ValueError: on another split, an unknown protocol, or scores of another shape or type.

    Example:
      >>> import numpy as np
      >>> from slif_jax import data, evaluate
      >>> dataset = data.load("synthetic:users=60,items=40,seed=0")
      >>> scores = np.zeros((60, 40), np.float32)
      >>> scores[dataset.test[:, 0], dataset.test[:, 1]] = 1.0  # a model that knows the answers
      >>> found = evaluate.evaluate_scores(lambda users: scores[users], dataset, "test", protocol="kgat", topk=(20,))
      >>> found.means()["recall@20"]
      1.0
    """
    rules = with_rules(protocol, {}) if isinstance(protocol, str) else protocol
    select_on = f"recall@{max(topk, default=0)}"  # no epoch is chosen, but a `Config` wants one of its cut-offs
    config = Config(topk=tuple(topk), select_on=select_on, eval_block=min(block, max(dataset.num_users, 1)))
    task = ranking_task(dataset, split, config, protocol=rules, candidates=candidates)
    users, width = np.asarray(task.arrays.users), list_width(task)
    hits = [np.zeros((0, width), np.int8)]
    for start in range(0, len(users), task.block):
        rows = users[start : start + task.block]
        scores = np.asarray(score_fn(rows))
        if scores.dtype.kind not in "biuf" and not jnp.issubdtype(scores.dtype, jnp.floating):
            raise ValueError(f"`score_fn` must give real numbers: got dtype {scores.dtype}.")
        if scores.shape != (len(rows), dataset.num_items):
            expected = f"a row per user and a column per item, {len(rows)} x {dataset.num_items}, -inf for no rank"
            raise ValueError(f"`score_fn` must give {expected}: got shape {scores.shape}.")
        with np.errstate(over="ignore"):
            found = _rank_scores(scores.astype(np.float32), task.arrays, np.int32(start), width=width)
        hits.append(np.asarray(found))
    return evaluation_of(task, np.concatenate(hits))


@functools.partial(jax.jit, static_argnames="width")
def _rank_scores(
    scores: Array | np.ndarray, arrays: TaskArrays, start: Array | np.int32, *, width: int
) -> Int8[Array, "block width"]:
    """The hits of `list_block`, from the scores of a block."""
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=len(scores) + 1)
    seen, bounds = cut(arrays.seen_indptr), cut(arrays.relevant_indptr)
    if arrays.candidates is not None:
        scores = scores[:, arrays.candidates]
    places = jnp.broadcast_to(jnp.arange(scores.shape[1], dtype=jnp.int32), scores.shape)
    masked = jnp.isnan(scores) | contains(arrays.seen, seen[:-1], seen[1:], places)
    scores = jnp.where(masked, -jnp.inf, jnp.where(scores == 0, 0.0, scores))  # a negative zero is a zero
    return _hits(best(scores, width).indices, arrays, bounds)


def list_width(task: RankingTask) -> int:
    """How long the lists K* are that a task's metrics need: there are never more ranks than items."""
    return min(max(task.protocol.list_length, *task.topk), task.arrays.is_cold.shape[0])


def evaluation_of(task: RankingTask, hits: np.ndarray) -> Evaluation:
    """The metrics of a task.

    Args:
      task: from `ranking_task`.
      hits: `[n or more, K*]` of `list_block`, a row per user in the order of the task.

    Returns:
      `Evaluation`.
    """
    hits = hits[: len(task.users)]
    values = ranking_metrics(hits > 0, task.num_relevant, task.topk, ideal=task.protocol.ideal)
    return Evaluation(task.users, values, task.history > 0, metric_names(task.topk), hits, task)
