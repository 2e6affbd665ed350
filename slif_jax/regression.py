"""Item-item regression: which items predict which, in closed form from the training interactions alone.

It knows what vectors learned by contrast smooth over: pairs of items that go together for no other reason than that
users took both. Its scores are inner products too, so they stand beside Z in what is ranked.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from slif_jax.data import Dataset


class Regression(NamedTuple):
    """Factors of the scores; r columns. A user's scores have standard deviation 1 over the items."""

    users: Float[Array, "users r"]
    items: Float[Array, "items r"]


def fit_regression(dataset: Dataset, *, rank: int, l2: float) -> Regression:
    """Predicts each item from the user's other items, by ridge regression on all training interactions.

    With X the users' training items, as zeros and ones, and M = V diag(s^2 / (s^2 + l2)) V^T from the singular values s
    and right singular vectors V of X, the score of item j is (X M)_j / (1 - M_jj). For items that the user does not
    have this is EASE, exactly so at full rank: there the zero diagonal that EASE asks for only changes items that the
    user has. An item without training interactions scores as the mean of the others.

    Args:
      dataset: loaded data.
      rank: singular vectors, the largest first; as many as there are, at most.
      l2: lambda, of the ridge.

    Returns:
      `Regression` on the default device.

    Reference: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, eq. (8); the factors as in Jin et
    al., "Towards a Better Understanding of Linear Models for Recommendation", KDD 2021, section 3.
    """
    # Here and not above: what is switched off need not be imported.
    from scipy import sparse
    from scipy.sparse.linalg import svds

    users, items = dataset.train.T
    shape = (dataset.num_users, dataset.num_items)
    history = sparse.csr_array((np.ones(len(users)), (users, items)), shape=shape)
    if min(shape) > rank:
        found = svds(history, k=rank, v0=np.ones(min(shape)))
    else:
        found = np.linalg.svd(history.toarray(), full_matrices=False)
    s, v = np.asarray(found[1]), np.asarray(found[2]).T
    gain = s**2 / (s**2 + l2)
    left_out = 1.0 - np.sum(v * gain * v, axis=1)
    ends = v / np.maximum(left_out, 1e-6)[:, None]
    warm = np.bincount(items, minlength=dataset.num_items) > 0
    ends[~warm] = ends[warm].mean(axis=0)
    starts = (history @ v) * gain
    mean, second = ends.mean(axis=0), ends.T @ ends / len(ends)
    variance = np.einsum("ur,rs,us->u", starts, second, starts, optimize=True) - (starts @ mean) ** 2
    scale = np.where(variance > 1e-12, 1.0 / np.sqrt(np.maximum(variance, 1e-12)), 0.0)
    return Regression(*(jnp.asarray(x.astype(np.float32)) for x in (starts * scale[:, None], ends)))


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
