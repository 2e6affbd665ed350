"""What linear models weigh beside the vectors: tuned on validation, in the lists that users would get.

How much regression, walks, content and popularity are worth differs from data set to data set, and with the vectors
that they stand beside. Their weights are a handful of numbers, so that what validation has to say of them is soon
said: those which make its items likeliest among the first items of their users' lists.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.evaluate import RankingTask, TaskArrays, list_block, ranking_task
from slif_jax.linear import LinearScores, beside
from slif_jax.model import Encoded, Params, Vectors
from slif_jax.train_state import TrainState

TUNING = "tuning of linear models"
"""The name of `tuning_task` among `training_tasks`."""
LISTED = 100  # items of each list
MOST_USERS, USERS_AT_ONCE = 4096, 256
_LEAST_USERS = 100
_GIVEN_COUNT_AS = 100  # users that the weights which were given count as
_LEAST_VECTORS = 0.05  # what the vectors weigh at least, by what any model weighs, in standard deviations of scores


class Lists(NamedTuple):
    """Lists of users, scored by the vectors and by each linear model apart."""

    scores: Float[Array, "users listed parts"] | np.ndarray
    """First by the vectors, by the length of the user's, then by the models in the order of their names."""
    hits: Bool[Array, "users listed"] | np.ndarray
    listed: Bool[Array, "users listed"] | np.ndarray
    """Whether there is an item at this rank."""


def tuning_task(dataset: Dataset, config: Config) -> RankingTask | None:
    """The users whose validation items the weights are tuned by: all of them, or a sample of 4,096.

    Args:
      dataset: loaded data.
      config: settings.

    Returns:
      The task; None if there are no linear models, their weights are not to be tuned, or nobody has validation items.
    """
    if not config.tunes_linear_weights() or not len(dataset.valid):
        return None
    users = np.unique(dataset.valid[:, 0])
    if len(users) > MOST_USERS:
        users = np.random.default_rng(0).choice(users, MOST_USERS, replace=False)
    valid = dataset.valid[np.isin(dataset.valid[:, 0], users)]
    config = dataclasses.replace(config, eval_block=min(config.eval_block, USERS_AT_ONCE))
    rules = dataclasses.replace(config.rules(), candidates="all", ties="lower")
    return ranking_task(dataclasses.replace(dataset, valid=valid), "valid", config, protocol=rules)


def score_lists(
    ranked: Vectors, final_users: Array, linear: Mapping[str, LinearScores], arrays: TaskArrays, *, block: int
) -> Lists:
    """The first items of every user's list, and what the vectors and each of the linear models make of them.

    Args:
      ranked: vectors that scores are inner products of.
      final_users: `[U, D]` user vectors without the linear models.
      linear: the models; of their factors only those of users are used.
      arrays: of a `tuning_task`, of its n users padded to whole blocks.
      block: users at a time. Static.

    Returns:
      `Lists` of n users.
    """
    names = sorted(linear)
    widths = [final_users.shape[1], *(linear[name].users.shape[1] for name in names)]
    ends = np.cumsum(widths)
    width = min(LISTED, ranked.items.shape[0])
    lengths = jnp.linalg.norm(final_users, axis=1, keepdims=True)
    users = [final_users / jnp.maximum(lengths, 1e-30), *(linear[name].users for name in names)]

    def of_block(start: Int[Array, ""]) -> Lists:
        found = list_block(ranked, arrays, start, width=width, block=block)
        rows = jax.lax.dynamic_slice_in_dim(arrays.users, start, block)
        items = ranked.items[found.items]
        parts = [
            jnp.einsum("br,bkr->bk", own[rows], items[:, :, end - size : end])
            for own, size, end in zip(users, widths, ends, strict=True)
        ]
        return Lists(jnp.stack(parts, axis=2), found.hits > 0, found.items >= 0)

    found = jax.lax.map(of_block, jnp.arange(0, arrays.users.shape[0], block, dtype=jnp.int32))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def tune_weights(lists: Lists, given: np.ndarray) -> np.ndarray:
    """The weights that make hits likeliest among the items of their lists.

    The likelihood is that of a softmax over the items of a list, its temperature tuned as well; every user with a hit
    and an item that is none counts once. The weights are the mean of these, which count for as many as there are such
    users, and of those that were `given`, which count for 100; with fewer than 100 such users those given stay. In
    standard deviations of scores within the lists the vectors weigh at least a twentieth of any model.

    Args:
      lists: from `score_lists`, on the host.
      given: `[M]` what was given for each linear model.

    Returns:
      `[M]` float64, not negative; of a model that says nothing in these lists, or where vectors say nothing or a score
      is not finite, what was given.
    """
    from scipy import optimize  # here and not above: what is switched off need not be imported

    shown = np.asarray(lists.listed)
    hits = np.asarray(lists.hits) & shown
    told = hits.any(axis=1) & (shown & ~hits).any(axis=1)
    shown, hits, scores = shown[told], hits[told], np.asarray(lists.scores, np.float64)[told]
    given = np.asarray(given, np.float64)
    if len(scores) < _LEAST_USERS or not np.isfinite(scores[shown]).all():
        return given
    counts = shown.sum(axis=1)
    means = np.einsum("ukp,uk->up", scores, shown) / counts[:, None]
    scores = np.where(shown[:, :, None], scores - means[:, None, :], 0.0)
    spread = np.sqrt(np.sum(scores**2, axis=(0, 1)) / counts.sum())
    some = spread > 1e-6 * spread.max(initial=0.0)
    if not some[0] or not some[1:].any():
        return given
    scores = scores[:, :, some] / spread[some]
    rows = np.flatnonzero(hits)
    owner, share = rows // hits.shape[1], 1.0 / hits.sum(axis=1)
    of_hits = scores.reshape(-1, scores.shape[2])[rows]
    weight = share[owner] / len(scores)
    total = weight @ of_hits

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        logits = np.where(shown, scores @ theta, -np.inf)
        top = logits.max(axis=1)
        odds = np.exp(logits - top[:, None])
        sums = odds.sum(axis=1)
        expected = np.einsum("uk,ukp->p", odds / (sums * len(scores))[:, None], scores)
        return float(np.mean(top + np.log(sums)) - total @ theta), expected - total

    least = [(1e-3, None), *[(0.0, None)] * (scores.shape[2] - 1)]
    theta = optimize.minimize(loss, np.full(scores.shape[2], 0.5), jac=True, method="L-BFGS-B", bounds=least).x
    theta[0] = max(theta[0], _LEAST_VECTORS * theta.max())
    found = given.copy()
    found[some[1:]] = (theta[1:] / spread[some][1:]) / (theta[0] / spread[0])
    return (len(scores) * found + _GIVEN_COUNT_AS * given) / (len(scores) + _GIVEN_COUNT_AS)


def named_weights(names: Sequence[str], params: Params) -> dict[str, float]:
    """What each linear model weighs, by name; `names` are those of `SlifMr.linear_names`."""
    return dict(zip(names, np.asarray(params.get("linear_weights", ())).tolist(), strict=True))


def with_linear_weights(state: TrainState, weights: Float[Array, " m"]) -> TrainState:
    """A state whose linear models weigh `weights`, in the order of their names; average and parameters alike."""
    state = state.replace(params={**state.params, "linear_weights": weights})
    if state.average is None:
        return state
    own = jnp.copy(weights)  # the state is donated: no buffer may be in it twice
    return state.replace(average={**state.average, "linear_weights": own})


def with_weights(encoded: Encoded, linear: Mapping[str, LinearScores], weights: Float[Array, " m"]) -> Encoded:
    """What is ranked with other weights of the linear models, `[M]` in the order of their names."""
    named = dict(zip(sorted(linear), weights, strict=True))
    return encoded._replace(ranked=Vectors(*beside(*encoded.final, linear, named)))
