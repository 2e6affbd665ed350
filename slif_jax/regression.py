"""Item-item regression: which items predict which, in closed form from the training interactions alone.

It knows what vectors learned by contrast smooth over: pairs of items that go together for no other reason than that
users took both. Its scores are inner products too, so they stand beside Z in what is ranked.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jaxtyping import Float

from slif_jax.data import Dataset
from slif_jax.multihost import is_first

_MOST_DENSE = 3000  # users or items, the fewer of them, for which all pairs are written down
_LEAST_VARIANCE = 1e-9  # by the largest of a user; who has less has no scores


class Regression(NamedTuple):
    """Factors of the scores; r columns. A user's scores have standard deviation 1 over all items, their own too."""

    users: Float[Array, "users r"]
    items: Float[Array, "items r"]


def fit_regression(dataset: Dataset, *, rank: int, l2: float) -> Regression:
    """Predicts each item from the user's other items, by ridge regression on all training interactions.

    With X the users' training items, as zeros and ones, and M = V diag(s^2 / (s^2 + l2)) V^T from the singular values s
    and right singular vectors V of X, the score of item j is (X M)_j / (1 - M_jj). For items that the user does not
    have this is EASE, exactly so at full rank: there the zero diagonal that EASE asks for only changes items that the
    user has, whose scores here are high and mean nothing. An item without training interactions scores as the mean of
    the others.

    Args:
      dataset: loaded data.
      rank: singular vectors, the largest first; as many as there are, at most.
      l2: lambda, of the ridge.

    Returns:
      `Regression` on the default device.

    Raises:
      ValueError: if the singular vectors cannot be found.

    Reference: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, eq. (8); the factors as in Jin et
    al., "Towards a Better Understanding of Linear Models for Recommendation", KDD 2021, section 3.
    """
    from scipy import sparse  # here and not above: what is switched off need not be imported

    users, items = dataset.train.T
    shape = (dataset.num_users, dataset.num_items)
    history = sparse.csr_array((np.ones(len(users)), (users, items)), shape=shape)
    squares, v = _of_first(history, min(rank, *shape))
    gain = squares / (squares + l2)
    left_out = 1.0 - np.sum(v * gain * v, axis=1)
    ends = v / np.maximum(left_out, 1e-6)[:, None]
    warm = np.bincount(items, minlength=dataset.num_items) > 0
    ends[~warm] = ends[warm].mean(axis=0)
    starts = history @ v
    starts *= gain
    mean, second = ends.mean(axis=0), ends.T @ ends / len(ends)
    variance = np.einsum("ur,ur->u", starts @ second, starts) - (starts @ mean) ** 2
    some = variance > _LEAST_VARIANCE * variance.max(initial=0.0)
    starts *= np.where(some, 1.0 / np.sqrt(np.where(some, variance, 1.0)), 0.0)[:, None]
    return Regression(*(jnp.asarray(x.astype(np.float32)) for x in (starts, ends)))


def _of_first(history: Any, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Squares of the largest singular values `[r]` and right singular vectors `[I, r]`, those of process 0.

    They are not unique: signs, and bases of equal values, depend on the machine, and rows of users and items of several
    processes would not fit together.
    """
    if jax.process_count() == 1:
        return _largest(history, rank)
    nothing = np.zeros(rank, np.float32), np.zeros((history.shape[1], rank), np.float32)
    mine = tuple(x.astype(np.float32) for x in _largest(history, rank)) if is_first() else nothing
    squares, v = multihost_utils.broadcast_one_to_all(mine)
    return np.asarray(squares, np.float64), np.asarray(v, np.float64)


def _largest(history: Any, rank: int) -> tuple[np.ndarray, np.ndarray]:
    from scipy import linalg
    from scipy.sparse.linalg import ArpackError, svds

    size = min(history.shape)
    if size > _MOST_DENSE and rank < size:
        try:
            found = svds(history, k=rank, v0=np.ones(size))
        except ArpackError as error:
            raise ValueError(
                f"The regression's singular vectors were not found ({error}): lower --regression_rank."
            ) from None
        return np.asarray(found[1]) ** 2, np.asarray(found[2]).T
    by_user = history.shape[0] < history.shape[1]
    gram = (history @ history.T if by_user else history.T @ history).toarray()
    squares, vectors = linalg.eigh(gram, subset_by_index=[size - rank, size - 1])
    squares = np.maximum(squares, 0.0)
    if not by_user:
        return squares, vectors
    lengths = np.sqrt(squares)
    return squares, (history.T @ vectors) / np.where(lengths > 1e-6 * lengths[-1], lengths, np.inf)


def beside(
    users: Float[Array, "users d"],
    items: Float[Array, "items d"],
    regression: Regression | None,
    weight: float,
) -> tuple[Float[Array, "users e"], Float[Array, "items e"]]:
    """Vectors whose inner products are those of `users` and `items` and the regression's scores together.

    Args:
      users: `[U, D]` user vectors.
      items: `[I, D]` item vectors.
      regression: None changes nothing.
      weight: of a standard deviation of the regression's scores, in cosines: with unit item vectors it is times the
        length of the user's vector.

    Returns:
      `[U, D + r]` and `[I, D + r]`.
    """
    if regression is None:
        return users, items
    lengths = jnp.linalg.norm(users, axis=1, keepdims=True)
    return (
        jnp.concatenate([users, weight * lengths * regression.users], axis=1),
        jnp.concatenate([items, regression.items], axis=1),
    )
