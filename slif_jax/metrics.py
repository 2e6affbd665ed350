"""Ranking metrics from hit lists, one value per user, at several cut-offs at once."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from slif_jax.config import METRIC_NAMES


def metric_names(topk: tuple[int, ...]) -> tuple[str, ...]:
    """The columns of `ranking_metrics`, such as 'recall@20'."""
    return tuple(f"{name}@{k}" for name in METRIC_NAMES for k in topk)


def ranking_metrics(
    hits: Bool[Array, "n width"], num_relevant: Int[Array, " n"], topk: tuple[int, ...]
) -> Float[Array, "n metrics"]:
    """Recall, NDCG, precision, hit, MAP and MRR of ranked lists.

    n is the number of users, width the length of the lists.

    Args:
      hits: `[n, width]`, whether the item at this rank is relevant; best rank first.
      num_relevant: `[n]`, relevant items |R| of each user; 0 gives zeros.
      topk: cut-offs K, each at most `width` or the list is taken to go on without hits.

    Returns:
      `[n, 6 * len(topk)]` in the order of `metric_names(topk)`, float32. Recall is hits / |R|, precision hits / K,
      the ideal of NDCG and the denominator of MAP use min(|R|, K), MRR is 1 / rank of the first hit within K.
    """
    width = hits.shape[1]
    gain = hits.astype(jnp.float32)
    rank = jnp.arange(1, width + 1, dtype=jnp.float32)
    discount = 1.0 / jnp.log2(rank + 1.0)
    relevant = num_relevant.astype(jnp.float32)
    some = relevant > 0

    hit_counts = jnp.cumsum(gain, axis=1)
    dcg = jnp.cumsum(gain * discount[None, :], axis=1)
    precision_sums = jnp.cumsum(gain * hit_counts / rank[None, :], axis=1)
    first_hit = jnp.where(hit_counts == 1.0, gain, 0.0) / rank[None, :]
    reciprocal = jnp.cumsum(first_hit, axis=1)

    columns: dict[str, list[Array]] = {name: [] for name in METRIC_NAMES}
    for k in topk:
        last = min(k, width) - 1
        ideal = jnp.cumsum(1.0 / jnp.log2(jnp.arange(2, k + 2, dtype=jnp.float32)))
        reachable = jnp.minimum(num_relevant, k)
        denominator = jnp.maximum(reachable, 1)
        columns["recall"].append(hit_counts[:, last] / jnp.maximum(relevant, 1.0))
        columns["ndcg"].append(dcg[:, last] / ideal[denominator - 1])
        columns["precision"].append(hit_counts[:, last] / k)
        columns["hit"].append((hit_counts[:, last] > 0).astype(jnp.float32))
        columns["map"].append(precision_sums[:, last] / denominator.astype(jnp.float32))
        columns["mrr"].append(reciprocal[:, last])
    values = jnp.stack([column for name in METRIC_NAMES for column in columns[name]], axis=1)
    return jnp.where(some[:, None], values, 0.0)
