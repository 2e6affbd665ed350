"""Means over seeds and splits, paired tests over users, and their correction for several tests."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

_MAX_BYTES, _MAX_RATIO = 1 << 30, 64  # what an archive may unpack to: the larger of a size and a multiple of its own
_VALUES = {
    "all": "values",
    "warm": "warm_item_values",
    "cold": "cold_item_values",
    "among_cold": "among_cold_values",
}


class UserValues(NamedTuple):
    """Metrics of each user that counts, from one run or as the mean of several."""

    user_ids: np.ndarray
    """`[n]` ids of the source."""
    values: np.ndarray
    """`[n, metrics]`; NaN where the user has no relevant item of this kind."""


class PairedTest(NamedTuple):
    """A Wilcoxon signed-rank test over users."""

    users: int
    """Users with a value in both."""
    difference: float
    """Mean of row minus reference."""
    p: float


def read_users(path: Path, metrics: Sequence[str], part: str) -> UserValues:
    """Reads the values per user of a run.

    Args:
      path: `test_users.npz`.
      metrics: columns to take.
      part: a key of `plots.PART_NAMES`.

    Returns:
      The users that count under the protocol of the run.

    Raises:
      ValueError: if the file is absent, damaged, or lacks a metric.
    """
    what_else = "Train this run again, with --resume=never."
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > max(_MAX_BYTES, _MAX_RATIO * path.stat().st_size):
            raise ValueError(f"it would unpack to {unpacked >> 20:,} MiB")
        with np.load(path, allow_pickle=False) as table:
            names, counted = table["names"].tolist(), table["counted"]
            user_ids, values = table["user_ids"], table[_VALUES[part]]
        if counted.dtype != np.bool_ or values.shape != (len(counted), len(names)) or user_ids.shape != counted.shape:
            raise ValueError("its arrays do not fit together")
    except (OSError, EOFError, KeyError, MemoryError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}. {what_else}") from None
    missing = [metric for metric in metrics if metric not in names]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}: the run had another --topk. {what_else}")
    return UserValues(user_ids[counted], values[counted][:, [names.index(metric) for metric in metrics]])


def mean_over_seeds(runs: Sequence[UserValues]) -> UserValues:
    """Averages each user's values over runs, so that a user is one observation and not one per seed.

    Args:
      runs: of one arm, on the same data.

    Returns:
      The mean for each user.

    Raises:
      ValueError: if the runs were evaluated on different users.
    """
    first = runs[0]
    for run in runs[1:]:
        if not np.array_equal(run.user_ids, first.user_ids):
            raise ValueError("The runs of one arm were evaluated on different users: they cannot be averaged.")
    return UserValues(first.user_ids, np.mean([run.values for run in runs], axis=0))


def mean_over_splits(splits: Sequence[UserValues]) -> UserValues:
    """Averages each user's values over splits of the data, so that a user is one observation and not one per split.

    Args:
      splits: of one arm, each the mean over its seeds.

    Returns:
      The mean for each user, over the splits in which the user has a value; users in the order of their ids.
    """
    if len(splits) == 1:
        return splits[0]
    user_ids = np.unique(np.concatenate([split.user_ids for split in splits]))
    values = np.full((len(splits), len(user_ids), splits[0].values.shape[1]), np.nan)
    for row, split in zip(values, splits, strict=True):
        row[np.searchsorted(user_ids, split.user_ids)] = split.values
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return UserValues(user_ids, np.where(counts > 0, total / np.maximum(counts, 1), np.nan))


def paired_test(reference: UserValues, row: UserValues, column: int, *, alternative: str) -> PairedTest:
    """Tests whether users are served better by one arm than by another.

    The Wilcoxon signed-rank test needs no normal values; users with equal values take no part in the ranks
    (Wilcoxon's own treatment of zeros).

    Args:
      reference: mean over seeds and splits.
      row: likewise.
      column: of the metric.
      alternative: 'greater' asks whether the reference is better than the row, 'less' whether it is worse,
        'two-sided' whether it is different.

    Returns:
      The test; p is 1 where no user differs.
    """
    _, first, second = np.intersect1d(reference.user_ids, row.user_ids, assume_unique=True, return_indices=True)
    before, after = reference.values[first, column], row.values[second, column]
    both = ~(np.isnan(before) | np.isnan(after))
    before, after = before[both], after[both]
    if not both.any():
        return PairedTest(0, float("nan"), float("nan"))
    difference = float(np.mean(after - before))
    if not np.any(before != after):
        return PairedTest(len(before), difference, 1.0)
    result: Any = stats.wilcoxon(before, after, zero_method="wilcox", alternative=alternative)
    return PairedTest(len(before), difference, float(result.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for their number (Holm 1979): the family-wise error stays below the level.

    Args:
      p_values: of one family of tests; NaN (no test) is left out and stays.

    Returns:
      Corrected p-values in the same order, at most 1.
    """
    corrected = np.array(p_values, np.float64)
    tested = np.flatnonzero(~np.isnan(corrected))
    order = tested[np.argsort(corrected[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(corrected[order] * factors), 1.0)
    return corrected.tolist()
