"""How credible each training interaction is: some were made by chance, and should count less."""

import dataclasses

import numpy as np

from slif_jax.data import Dataset

_LEAST_TAKEN = 0.3  # of the items: what they have in common is what chance gives to every item
_RAREST = 0.003  # of the items: what these have is no more than what made them items of the data set
_SUSPICION = 1.5  # times as much is taken for chance: what slips through costs more than what is wronged
_LEAST = 0.05


def weigh_interactions(dataset: Dataset) -> Dataset:
    """Estimates how credible each training interaction is.

    Interactions are taken for a mixture of what users wanted and of pairs by chance, of a user and any item. Chance
    gives every item lambda interactions, and so of the d interactions of an item a share lambda / d: the weight of each
    of them is 1 - lambda / d, 0.05 at least. What chance gives shows in the items taken least: lambda is 1.5 times what
    the 30 % of the items with fewest interactions have in the mean, beyond the number that 0.3 % of the items do not
    exceed. Where many items have one interaction alone, lambda is 0 and nothing is weighed.

    Nothing is known of chance that takes what is popular. Data without rare items look as if chance had been there:
    what remains where these were left out (k-core), and small or dense sets such as `synthetic`, where lambda need not
    grow with chance either.

    Args:
      dataset: loaded data.

    Returns:
      The data set with `train_weights`; with None for them where nothing is to be weighed.

    Reference: the share of chance from where it is all there is, as in Scott, "A Rate of Convergence for Mixture
    Proportion Estimation, with Application to Learning from Noisy Labels", AISTATS 2015; docs/method.md, 3 and 7.4.

    Example:
      >>> from slif_jax import credibility, data
      >>> weighed = credibility.weigh_interactions(data.load("synthetic"))
      >>> len(weighed.train_weights) == len(weighed.train)
      True
    """
    items = dataset.train[:, 1]
    counts = np.bincount(items, minlength=dataset.num_items)
    chance = _background(counts[counts > 0])
    weights = np.maximum(1.0 - chance / counts[items], _LEAST).astype(np.float32) if chance > 0 else None
    return dataclasses.replace(dataset, train_weights=weights)


def _background(counts: np.ndarray) -> float:
    """lambda, from the numbers of interactions of those items that have any."""
    if not len(counts):
        return 0.0
    ascending = np.sort(counts)
    least = ascending[: max(1, int(_LEAST_TAKEN * len(counts)))]
    return _SUSPICION * float(least.mean() - ascending[int(_RAREST * len(counts))])
