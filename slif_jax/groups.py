"""An evaluation by groups: warm and cold items, active and less active users; intervals; values per user on disk."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from slif_jax.blend import TUNING, tuning_task
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.evaluate import Evaluation, RankingTask, ranking_task
from slif_jax.metrics import ranking_metrics
from slif_jax.protocols import Protocol

COLD_TEST = "cold items of test"
"""The name of `cold_items_task` among `training_tasks`."""
_NORMAL_95 = 1.959963984540054  # the 97.5 % point of the standard normal distribution


def cold_items_task(
    dataset: Dataset,
    split: str,
    config: Config,
    *,
    protocol: Protocol | None = None,
    candidates: np.ndarray | None = None,
) -> RankingTask | None:
    """`ranking_task` with the items without training interactions as the only candidates and relevant items.

    They are ranked among themselves: how their scores compare with those of other items plays no part. Ties are
    'shuffled': who knows nothing of such items finds what chance finds, and not what the order of ids tells.

    Args:
      dataset: loaded data.
      split: as in `ranking_task`, like all that follow.
      config: settings.
      protocol: the rules.
      candidates: the items that may be recommended, if the protocol's are 'listed'.

    Returns:
      The task, of the users with such relevant items; None if no such item is relevant to anybody, or none is a
      candidate.

    Reference: as new items are evaluated in Volkovs et al., "DropoutNet: Addressing Cold Start in Recommender Systems",
    NeurIPS 2017.
    """
    is_cold = np.bincount(dataset.train[:, 1], minlength=dataset.num_items) == 0
    pairs = dataset.splits[split]
    relevant = pairs[is_cold[pairs[:, 1]]]
    rules = config.rules() if protocol is None else protocol
    items = np.flatnonzero(is_cold) if candidates is None else np.intersect1d(candidates, np.flatnonzero(is_cold))
    if not len(relevant) or not len(items) or rules.candidates == "train":
        return None
    dataset = dataclasses.replace(dataset, **{split: relevant})
    rules = dataclasses.replace(rules, candidates="listed", ties="shuffled")
    return ranking_task(dataset, split, config, protocol=rules, candidates=items)


def training_tasks(dataset: Dataset, config: Config) -> dict[str, RankingTask]:
    """What a training evaluates.

    Args:
      dataset: loaded data.
      config: settings.

    Returns:
      By name, the split that the epoch is chosen on, 'test', where there are such items, `COLD_TEST`, and where the
      weights of linear models are tuned, `TUNING`.
    """
    tasks = {split: ranking_task(dataset, split, config) for split in {config.rules().select_part, "test"}}
    further = {COLD_TEST: cold_items_task(dataset, "test", config), TUNING: tuning_task(dataset, config)}
    return tasks | {name: task for name, task in further.items() if task is not None}


def item_values(evaluation: Evaluation, *, cold: bool) -> np.ndarray:
    """Metrics over the relevant items of one kind alone.

    A cold item has no training interaction, a warm item has one. The ranked lists are those of the whole evaluation,
    with warm and cold items in them; a hit on an item of the other kind counts as a miss, and R counts the user's
    relevant items of this kind.

    Args:
      evaluation: from `evaluate_vectors`.
      cold: the kind.

    Returns:
      `[n, metrics]` float64; NaN for a user without relevant items of the kind.
    """
    task = evaluation.task
    num_relevant = task.num_cold if cold else task.num_relevant - task.num_cold
    hits = evaluation.hits == (2 if cold else 1)
    values = ranking_metrics(hits, num_relevant, task.topk, ideal=task.protocol.ideal)
    return np.where((num_relevant > 0)[:, None], values, np.nan)


def activity(evaluation: Evaluation, num_groups: int) -> tuple[np.ndarray, list[str]]:
    """Groups the users with training interactions by how many they have.

    Args:
      evaluation: from `evaluate_vectors`.
      num_groups: groups of about the same size, such as 4 for quartiles. Users with equally many interactions are in
        the same group, so there may be fewer.

    Returns:
      `[n]` group of each user, ascending with activity, -1 without training interactions; and the groups' names, such
      as '5 to 17'.
    """
    counts = evaluation.task.history
    group = np.full(len(counts), -1, np.int64)
    warm = counts > 0
    if not warm.any():
        return group, []
    shares = np.arange(1, num_groups) / num_groups
    bounds = np.unique(np.quantile(counts[warm], shares, method="inverted_cdf"))
    _, group[warm] = np.unique(np.searchsorted(bounds, counts[warm]), return_inverse=True)
    names = []
    for number in range(group.max() + 1):
        least, most = counts[group == number].min(), counts[group == number].max()
        names.append(f"{least} to {most}" if least < most else f"{least}")
    return group, names


def intervals(values: np.ndarray, names: tuple[str, ...]) -> dict[str, list[float] | None]:
    """95 % intervals of means over users: mean -/+ 1.96 standard errors. They say nothing of other seeds or splits.

    Args:
      values: `[n, metrics]`.
      names: of the metrics.

    Returns:
      By metric, the ends of its interval; None with fewer than two users.
    """
    if len(values) < 2:
        return dict.fromkeys(names)
    half = _NORMAL_95 * values.std(axis=0, ddof=1) / np.sqrt(len(values))
    means = values.mean(axis=0)
    return {name: [float(mean - h), float(mean + h)] for name, mean, h in zip(names, means, half, strict=True)}


def group_results(evaluation: Evaluation, num_groups: int, among_cold: Evaluation | None = None) -> dict[str, Any]:
    """What `result.json` says of groups, over the users that count under the protocol; unrounded.

    Args:
      evaluation: from `evaluate_vectors`.
      num_groups: groups by activity.
      among_cold: of the same split, the cold items ranked among themselves (`cold_items_task`).

    Returns:
      `{"items": {"warm": G, "cold": G, "among_cold": G}, "activity": {"5 to 17": G, ...}}` where G is `{"users": n,
      "relevant": r, "means": {metric: value}, "interval": {metric: [low, high]}}`, n the users that the means are over
      and r their relevant items. A group of nobody has no means and no interval, and without `among_cold` it is one.
      `among_cold` has "candidates" too, the number of items in its lists: of n chance finds K / n (recall@K).
    """
    task = evaluation.task

    def entry(values: np.ndarray, users: np.ndarray, num_relevant: np.ndarray) -> dict[str, Any]:
        users = users & (num_relevant > 0)
        values = values[users]
        means = dict(zip(evaluation.names, values.mean(axis=0).tolist(), strict=True)) if len(values) else {}
        return {
            "users": len(values),
            "relevant": int(num_relevant[users].sum()),
            "means": means,
            "interval": intervals(values, evaluation.names) if means else {},
        }

    group, names = activity(evaluation, num_groups)
    nobody = np.zeros_like(evaluation.counted)
    candidates = None if among_cold is None else among_cold.task.arrays.candidates
    return {
        "items": {
            "warm": entry(item_values(evaluation, cold=False), evaluation.counted, task.num_relevant - task.num_cold),
            "cold": entry(item_values(evaluation, cold=True), evaluation.counted, task.num_cold),
            "among_cold": entry(
                _among_cold_values(evaluation, among_cold),
                nobody if among_cold is None else evaluation.counted,
                task.num_cold,
            )
            | {"candidates": 0 if candidates is None else len(candidates)},
        },
        "activity": {
            name: entry(evaluation.values, group == number, task.num_relevant) for number, name in enumerate(names)
        },
    }


def _among_cold_values(evaluation: Evaluation, among_cold: Evaluation | None) -> np.ndarray:
    """`[n, metrics]` for the users of `evaluation`; NaN where a user has no relevant cold item."""
    values = np.full(evaluation.values.shape, np.nan)
    if among_cold is not None:
        values[np.searchsorted(evaluation.users, among_cold.users)] = among_cold.values
    return values


def test_results(evaluation: Evaluation, num_groups: int, among_cold: Evaluation | None) -> dict[str, Any]:
    """What `result.json` says of test.

    Args:
      evaluation: of test, from `evaluate_vectors`.
      num_groups: groups by activity.
      among_cold: as in `group_results`.

    Returns:
      `test` (means as the protocol counts and rounds them), `test_interval`, `test_users` (how many the means are
      over), `test_without_history` and `test_groups`. Without users the means are None.
    """
    counted = evaluation.counted
    without = int((~evaluation.has_history).sum())
    return {
        "test": evaluation.means() if counted.any() else dict.fromkeys(evaluation.names),
        "test_interval": intervals(evaluation.values[counted], evaluation.names),
        "test_users": int(counted.sum()),
        "test_without_history": {"users": without, **evaluation.cold_user_means()},
        "test_groups": group_results(evaluation, num_groups, among_cold),
    }


def save_users(
    path: Path, evaluation: Evaluation, dataset: Dataset, config: Config, among_cold: Evaluation | None = None
) -> None:
    """Writes one row per evaluated user, for tests that pair the users of two runs.

    The NPZ file holds, for n users and m metrics: `user_ids` `[n]` ids of the source, `names` `[m]`, `values`,
    `warm_item_values`, `cold_item_values` and `among_cold_values` `[n, m]` (NaN where a user has no such relevant
    item), `num_relevant`, `num_cold_relevant`, `train_interactions`, `activity` (names of the groups, '' without
    history) and `counted` (whether the user is in the means), all `[n]`; and the scalars `protocol`,
    `data_fingerprint`, `split_fingerprint`.

    Args:
      path: the file; it is replaced at once.
      evaluation: from `evaluate_vectors`.
      dataset: its data.
      config: the number of groups by activity.
      among_cold: as in `group_results`.
    """
    group, names = activity(evaluation, config.activity_groups)
    task = evaluation.task
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            user_ids=dataset.user_ids[evaluation.users],
            names=np.array(evaluation.names, np.str_),
            values=evaluation.values,
            warm_item_values=item_values(evaluation, cold=False),
            cold_item_values=item_values(evaluation, cold=True),
            among_cold_values=_among_cold_values(evaluation, among_cold),
            num_relevant=task.num_relevant,
            num_cold_relevant=task.num_cold,
            train_interactions=task.history,
            activity=np.array([*names, ""], np.str_)[group],
            counted=evaluation.counted,
            protocol=np.array(task.protocol.label()),
            data_fingerprint=np.array(dataset.fingerprint),
            split_fingerprint=np.array(dataset.split_fingerprint),
        )
    os.replace(partial, path)
