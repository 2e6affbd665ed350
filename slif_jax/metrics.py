"""Ranking metrics from hit lists, a value per user, at several cut-offs at once; NumPy in float64."""

import numpy as np

METRIC_NAMES = ("recall", "ndcg", "precision", "hit", "map", "mrr")


def metric_names(topk: tuple[int, ...]) -> tuple[str, ...]:
    """The columns of `ranking_metrics`, such as 'recall@20'.

    Example:
      >>> from slif_jax import metrics
      >>> metrics.metric_names((10, 20))[:3]
      ('recall@10', 'recall@20', 'ndcg@10')
    """
    return tuple(f"{name}@{k}" for name in METRIC_NAMES for k in topk)


def ranking_metrics(
    hits: np.ndarray, num_relevant: np.ndarray, topk: tuple[int, ...], *, ideal: str = "reachable"
) -> np.ndarray:
    """Recall, NDCG, precision, hit, MAP and MRR of ranked lists.

    n is the number of users, width the length K* of the lists.

    Args:
      hits: `[n, width]` bool, whether the item at this rank is relevant; best rank first.
      num_relevant: `[n]`, relevant items |R| of each user; 0 gives zeros.
      topk: cut-offs K, each at most `width` or the list is taken to go on without hits.
      ideal: of NDCG@K: 'reachable' takes min(|R|, K) hits, 'found' the hits within the list, at most K of them.

    Returns:
      `[n, 6 * len(topk)]` in the order of `metric_names(topk)`, float64. Recall is hits / |R|, precision hits / K, the
      denominator of MAP is min(|R|, K), MRR is 1 / rank of the first hit within K.

    Raises:
      ValueError: on another ideal, a cut-off below 1, or arrays that do not fit.

    Reference: docs/protocols.md.

    Example:
      >>> import numpy as np
      >>> from slif_jax import metrics
      >>> found = metrics.ranking_metrics(np.array([[True, False]]), np.array([2]), (1, 2))
      >>> found[0, :2].tolist()  # recall@1, recall@2
      [0.5, 0.5]
    """
    if ideal not in ("reachable", "found"):
        raise ValueError(f"`ideal` must be one of reachable, found: got '{ideal}'.")
    if not topk or min(topk) < 1:
        raise ValueError(f"`topk` must be cut-offs of at least 1: got {topk}.")
    if hits.ndim != 2 or hits.dtype != np.bool_ or num_relevant.shape != hits.shape[:1]:
        raise ValueError(
            f"`hits` must be bool with a row per entry of `num_relevant`: got {hits.dtype} of shape {hits.shape}, "
            f"{num_relevant.shape}."
        )
    if num_relevant.dtype.kind not in "iu" or num_relevant.min(initial=0) < 0:
        raise ValueError(f"`num_relevant` must be counts, integers from 0: got {num_relevant.dtype}.")
    n, width = hits.shape
    gain = hits.astype(np.float64)
    rank = np.arange(1, width + 1, dtype=np.float64)
    hit_counts = np.cumsum(gain, axis=1)
    dcg = np.cumsum(gain / np.log2(rank + 1.0), axis=1)
    precision_sums = np.cumsum(gain * hit_counts / rank, axis=1)
    first = np.argmax(hits, axis=1) + 1 if width else np.ones(n, np.int64)
    reciprocal = np.where(hits.any(axis=1), 1.0 / first, 0.0)
    ideal_hits = num_relevant if ideal == "reachable" else hits.sum(axis=1)
    most = min(max(topk), int(ideal_hits.max(initial=0)))
    ideal_dcg = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, most + 2)))])

    columns: dict[str, list[np.ndarray]] = {name: [] for name in METRIC_NAMES}
    for k in topk:
        last = min(k, width) - 1
        found = hit_counts[:, last]
        best = ideal_dcg[np.minimum(ideal_hits, k)]
        columns["recall"].append(found / np.maximum(num_relevant, 1))
        columns["ndcg"].append(np.divide(dcg[:, last], best, out=np.zeros(n), where=best > 0))
        columns["precision"].append(found / k)
        columns["hit"].append((found > 0).astype(np.float64))
        columns["map"].append(precision_sums[:, last] / np.maximum(np.minimum(num_relevant, k), 1))
        columns["mrr"].append(np.where(first <= k, reciprocal, 0.0))
    values = np.stack([column for name in METRIC_NAMES for column in columns[name]], axis=1)
    return np.where((num_relevant > 0)[:, None], values, 0.0)
