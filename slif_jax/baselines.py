"""Scorers without training, to compare with: their scores are inner products of vectors, as a model's are."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from slif_jax.data import Dataset
from slif_jax.model import Vectors

_MAX_NUMBERS = 2**28


def item_cosine(dataset: Dataset) -> Vectors:
    """Items near the user's items: the sum, over the user's training items, of cosines between item columns of train.

    Deterministic. An item without training interactions scores 0.

    Args:
      dataset: loaded data; U users and I items.

    Returns:
      Vectors of I columns: the users' rows of the training matrix, and the matrix of cosines, its diagonal 0.

    Raises:
      ValueError: if (U + I) * I numbers, which are held densely, would take more than 1 GiB.

    Reference: Deshpande and Karypis, "Item-based top-N recommendation algorithms", TOIS 2004, without normalisation.
    """
    if (dataset.num_users + dataset.num_items) * dataset.num_items > _MAX_NUMBERS:
        raise ValueError(
            f"item_cosine holds a dense matrix: {dataset.num_users:,} users and {dataset.num_items:,} items are too "
            "many for it. Use the baseline popularity."
        )
    history = np.zeros((dataset.num_users, dataset.num_items), np.float32)
    history[dataset.train[:, 0], dataset.train[:, 1]] = 1.0
    norms = np.maximum(np.sqrt(history.sum(axis=0)), 1.0)
    cosine = (history.T @ history) / norms[:, None] / norms[None, :]
    np.fill_diagonal(cosine, 0.0)
    return Vectors(jnp.asarray(history), jnp.asarray(cosine))


def popularity(dataset: Dataset) -> Vectors:
    """Items by their number of training interactions, the same list for everybody.

    Args:
      dataset: loaded data.

    Returns:
      Vectors of one column.
    """
    counts = np.bincount(dataset.train[:, 1], minlength=dataset.num_items).astype(np.float32)
    return Vectors(jnp.ones((dataset.num_users, 1), jnp.float32), jnp.asarray(counts[:, None]))


def chance(dataset: Dataset) -> Vectors:
    """Items in a random order, another one for each user; always the same for the same data.

    Args:
      dataset: loaded data.

    Returns:
      Vectors of 32 columns.
    """
    rng = np.random.default_rng(0)
    shapes = ((dataset.num_users, 32), (dataset.num_items, 32))
    return Vectors(*(jnp.asarray(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes))


BASELINES: dict[str, Callable[[Dataset], Vectors]] = {
    "item_cosine": item_cosine,
    "popularity": popularity,
    "chance": chance,
}
