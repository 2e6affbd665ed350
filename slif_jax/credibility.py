"""How credible each training interaction is: some were made by chance, and should count less."""

import dataclasses
from typing import Any

import numpy as np

from slif_jax.data import Dataset

_RARE = 0.3  # of the items, those taken least: most of what chance made is among their interactions
_OFTEN = (0.5, 0.8)  # of the items: where those of the middle begin and those taken most; chance adds little to these
_PAIRS = 20_000
_TAKERS = 16  # of an item, the one who is asked about among them
_AT_ONCE = 2_000
_FEWEST = 500  # interactions of rare items: fewer say too little
_LEAST = 0.05


def weigh_interactions(dataset: Dataset) -> Dataset:
    """Estimates how credible each training interaction is.

    Interactions are taken for a mixture of what users wanted and of pairs by chance, of a user and any item. Chance
    gives every item lambda interactions, and so of the d interactions of an item a share lambda / d: the weight of each
    of them is 1 - lambda / d, 0.05 at least. Lambda is the mean count of the 30 % of the items taken least, times the
    share of chance among their interactions (`share_of_chance`). Where that is 0, nothing is weighed.

    Nothing is known of chance that takes what is popular, and where chance has made most interactions, nothing can be
    told any more and nothing is weighed.

    Args:
      dataset: loaded data.

    Returns:
      The data set with `train_weights`; with None for them where nothing is to be weighed.

    Reference: a mixture of what is wanted and what is not, as in Scott, "A Rate of Convergence for Mixture Proportion
    Estimation, with Application to Learning from Noisy Labels", AISTATS 2015; docs/method.md, 3 and 7.4.

    Example:
      >>> from slif_jax import credibility, data, noise
      >>> clean = data.load("synthetic:users=400,items=150")
      >>> credibility.weigh_interactions(clean).train_weights is None
      True
      >>> weighed = credibility.weigh_interactions(noise.add_interactions(clean, 1.0, seed=0))
      >>> len(weighed.train_weights) == len(weighed.train)
      True
    """
    items = dataset.train[:, 1]
    counts = np.bincount(items, minlength=dataset.num_items)
    chance = share_of_chance(dataset) * float(counts[_ascending(counts)[0]].mean()) if len(items) else 0.0
    weights = np.maximum(1.0 - chance / counts[items], _LEAST).astype(np.float32) if chance > 0 else None
    return dataclasses.replace(dataset, train_weights=weights)


def share_of_chance(dataset: Dataset) -> float:
    """How much of what the rare items have was made by chance, judged by how well their users can be foretold.

    Somebody who took an item is told from somebody else, drawn by activity, by what they share with the item's other
    takers: the mean over the user's other items j of how many of the takers took j, divided by sqrt(d_j). If chance
    alone made the interactions of an item, both are alike. So with a the share of right answers about rare items and b
    that about often taken ones (of the middle or taken most, what is more), of which as many takers are kept as a rare
    item has, the share is 1 - (a - 1/2) / (b - 1/2), within [0, 1]. Where chance made nothing, rare items are the
    easier ones, also where the rarest were left out of the data (k-core).

    Args:
      dataset: loaded data. Its `train` counts.

    Returns:
      In [0, 1]; 0 where it cannot be told: fewer than 500 interactions of rare items, or others as hard. From 20,000
      random pairs each, the same in every call.
    """
    from scipy import sparse  # here and not above: what is switched off need not be imported

    users, items = dataset.train.T
    counts = np.bincount(items, minlength=dataset.num_items)
    rare, *others = _ascending(counts)
    if counts[rare].sum() < _FEWEST or not all(map(len, others)):
        return 0.0
    rng = np.random.default_rng(0)
    taken: Any = sparse.csr_array((np.ones(len(users)), (users, items)), shape=(dataset.num_users, dataset.num_items))
    scaled: Any = (taken @ sparse.diags_array(1.0 / np.sqrt(np.maximum(counts, 1)))).tocsr()
    activity = np.bincount(users, minlength=dataset.num_users)
    shuffled = rng.permutation(len(users))
    takers = users[shuffled[np.argsort(items[shuffled], kind="stable")]]  # of item 0, of item 1, ...
    firsts = np.cumsum(counts) - counts

    def right_answers(asked: np.ndarray, sizes: np.ndarray) -> float:
        rows = np.repeat(np.arange(len(asked)), sizes)
        steps = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        round_the_table = (rng.integers(0, counts[asked])[rows] + steps) % counts[asked][rows]
        chosen = takers[firsts[asked][rows] + round_the_table]
        known = steps > 0
        shape = (len(asked), dataset.num_users)
        given: Any = sparse.csr_array((np.ones(known.sum()), (rows[known], chosen[known])), shape=shape)
        shared = given @ taken

        def likeness(who: np.ndarray) -> np.ndarray:
            has = np.asarray(taken[who, asked])
            of_itself = (sizes - 1) * has / np.sqrt(counts[asked])  # every taker took it
            total = np.asarray(shared.multiply(scaled[who]).sum(axis=1)) - of_itself
            return total / np.maximum(activity[who] - has, 1)

        one, other = likeness(chosen[~known]), likeness(users[rng.integers(0, len(users), len(asked))])
        return float(np.mean((one > other) + 0.5 * (one == other)))

    def all_answers(asked: np.ndarray, sizes: np.ndarray) -> float:
        parts = range(0, _PAIRS, _AT_ONCE)
        return float(np.mean([right_answers(asked[i : i + _AT_ONCE], sizes[i : i + _AT_ONCE]) for i in parts]))

    asked = rng.choice(rare, _PAIRS, p=counts[rare] / counts[rare].sum())
    sizes = np.minimum(counts[asked], _TAKERS)
    about_rare = all_answers(asked, sizes) - 0.5
    about_others = max(all_answers(rng.choice(among, _PAIRS), sizes) for among in others) - 0.5
    return float(np.clip(1.0 - about_rare / about_others, 0.0, 1.0)) if about_others > 0 else 0.0


def summary_of_weights(dataset: Dataset) -> str:
    """One line on what `weigh_interactions` found."""
    if dataset.train_weights is None:
        return "No sign of interactions by chance: all count alike."
    return f"Interactions weigh {1.0 - dataset.train_weights.mean():.1%} less: chance alone may have made some."


def _ascending(counts: np.ndarray) -> list[np.ndarray]:
    """Of the items with two interactions or more: those taken least, those of the middle, those taken most."""
    items = np.flatnonzero(counts > 1)
    items = items[np.argsort(counts[items], kind="stable")]
    ends = [int(share * len(items)) for share in (0.0, _RARE, *_OFTEN, 1.0)]
    return [items[: ends[1]], items[ends[2] : ends[3]], items[ends[3] :]]
