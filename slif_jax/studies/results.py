"""From the runs of a study to the rows of its table."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slif_jax.studies.plan import Arm, Draw, Plan
from slif_jax.studies.statistics import UserValues, holm, mean_over_seeds, mean_over_splits, paired_test, read_users


class Score(NamedTuple):
    """One metric of one row."""

    mean: float
    """Over the runs that have a value, of the mean over users."""
    std: float | None
    """Sample standard deviation over these runs; None with one."""
    by_seed: list[float]
    """Of each run, by split, then by seed; NaN where no user has a relevant item of this kind."""
    difference: float | None
    """Mean over users of row minus reference, each user's values averaged over the runs first, so that it is not quite
    that of the means where some users are in test in some splits only; None without reference."""
    p: float | None
    p_holm: float | None
    """Corrected over the rows that are tested on this metric."""


class Row(NamedTuple):
    """One arm, for all items or for those of one kind."""

    label: str
    part: str
    users: int
    runs: int
    scores: dict[str, Score]


def study_rows(plan: Plan, users_file: Callable[[Arm, Draw], Path]) -> list[Row]:
    """Means, tests and corrections.

    Args:
      plan: the study.
      users_file: `test_users.npz` of an arm and a draw.

    Returns:
      A row per arm and part, in the order of the parts, then of the arms.

    Raises:
      ValueError: if the runs of an arm on one split were evaluated on different users.
    """
    runs: dict[tuple[str, str], list[UserValues]] = {}
    for part in plan.parts:
        for arm in plan.arms:
            runs[part, arm.label] = [read_users(users_file(arm, draw), plan.metrics, part) for draw in plan.draws]
    each = len(plan.seeds)
    means = {
        key: mean_over_splits([mean_over_seeds(found[n : n + each]) for n in range(0, len(found), each)])
        for key, found in runs.items()
    }
    keys = [(part, arm) for part in plan.parts for arm in plan.arms]
    scores: dict[tuple[str, str], dict[str, Score]] = {(part, arm.label): {} for part, arm in keys}
    for column, metric in enumerate(plan.metrics):
        tests = {
            (part, arm.label): paired_test(
                means[part, arm.reference], means[part, arm.label], column, alternative=plan.alternative
            )
            for part, arm in keys
            if arm.reference is not None
        }
        corrected = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
        for part, arm in keys:
            key = part, arm.label
            by_seed = [_mean(run.values[:, column]) for run in runs[key]]
            known = [value for value in by_seed if not np.isnan(value)]
            test = tests.get(key)
            scores[key][metric] = Score(
                mean=float(np.mean(known)) if known else float("nan"),
                std=float(np.std(known, ddof=1)) if len(known) > 1 else None,
                by_seed=by_seed,
                difference=None if test is None else test.difference,
                p=None if test is None else test.p,
                p_holm=None if test is None else corrected[key],
            )
    return [
        Row(arm.label, part, _count(means[part, arm.label]), len(plan.draws), scores[part, arm.label])
        for part, arm in keys
    ]


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _count(users: UserValues) -> int:
    return int((~np.isnan(users.values).all(axis=1)).sum()) if users.values.shape[1] else 0
