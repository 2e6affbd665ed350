"""How credible each training interaction is: some were made by chance, and should count less."""

import dataclasses
from typing import Any

import numpy as np

from slif_jax.data import Dataset

_RARE = 0.3  # of the items, those taken least: most of what chance made is among their interactions
_OFTEN = (0.5, 0.8)  # of the items: where those of the middle begin and those taken most; chance adds little to these
_QUESTIONS = 20_000
_AT_ONCE = 2_000
_TAKERS = 16  # of an item, the one who is asked about among them
_MARGIN = 2.0  # standard errors
_LEAST = 0.05


def weigh_interactions(dataset: Dataset) -> Dataset:
    """Estimates how credible each training interaction is.

    Interactions are taken for a mixture of what users wanted and of pairs by chance, of a user and any item. Chance
    gives every item lambda interactions, and so of the d interactions of an item a share lambda / d: the weight of each
    of them is 1 - lambda / d, 0.05 at least. Lambda is the mean count of the 30 % of the items taken least, times the
    share of chance among their interactions (`share_of_chance`). Where that is 0, nothing is weighed.

    Nothing is known of chance that takes what is popular.

    Args:
      dataset: loaded data.

    Returns:
      The data set with `train_weights`; with None for them where nothing is to be weighed.

    Reference: a mixture of what is wanted and what is not, as in Scott, "A Rate of Convergence for Mixture Proportion
    Estimation, with Application to Learning from Noisy Labels", AISTATS 2015; docs/method.md, 3 and 7.4.

    Example:
      >>> from slif_jax import credibility, data, noise
      >>> clean = data.load("synthetic:users=1000,items=600")
      >>> credibility.weigh_interactions(clean).train_weights is None
      True
      >>> weighed = credibility.weigh_interactions(noise.add_interactions(clean, 0.5, seed=0))
      >>> len(weighed.train_weights) == len(weighed.train)
      True
    """
    items = dataset.train[:, 1]
    counts = np.bincount(items, minlength=dataset.num_items)
    share = share_of_chance(dataset)
    if not share:
        return dataclasses.replace(dataset, train_weights=None)
    chance = share * float(counts[_by_count(counts)[0]].mean())
    weights = np.maximum(1.0 - chance / counts[items], _LEAST)
    return dataclasses.replace(dataset, train_weights=weights.astype(np.float32))


def summary_of_weights(dataset: Dataset) -> str:
    """One line on what `weigh_interactions` found."""
    if dataset.train_weights is None:
        return "No sign of interactions by chance: all count alike."
    return f"Interactions weigh {1.0 - dataset.train_weights.mean():.1%} less: chance alone may have made some."


def share_of_chance(dataset: Dataset) -> float:
    """How much of what rare items have was made by chance, judged by how well their takers can be predicted.

    A user who took an item is to be told from one who did not, by their other items. If chance alone made the
    interactions of the item, half of the answers are right (`_Questions`). With a the share of right answers about rare
    items, and b that about items of the middle or about those taken most, whichever is larger, and of which as many
    takers are known as a rare item has, the share of chance is 1 - (a - 1/2) / (b - 1/2). This errs in two ways: rare
    items are easier than others where chance made nothing, so it finds too little; chance also made some of the takers
    that are known, so it finds too much. Where 10 to 50 % of random interactions were added to two data sets, lambda
    was within a half of the truth (docs/method.md, 7.4); on their k-cores it may find nothing.

    Args:
      dataset: loaded data. Its `train` counts.

    Returns:
      In [0, 1]; 0 where b - a or b - 1/2 is within two standard errors, so where data are too few to tell, where chance
      made nearly everything, and as a rule where it made nothing, in k-cores too. The same in every call.
    """
    rng = np.random.default_rng(0)
    counts = np.bincount(dataset.train[:, 1], minlength=dataset.num_items)
    rare, *often = _by_count(counts)
    if not all(map(len, (rare, *often))):
        return 0.0
    questions = _Questions(dataset, rng)
    asked = rng.choice(rare, _QUESTIONS, p=counts[rare] / counts[rare].sum())
    sizes = np.minimum(counts[asked], _TAKERS)

    def standard_error(group: np.ndarray) -> float:
        return 0.5 / np.sqrt(min(_QUESTIONS, counts[group].sum()))  # what is asked again says nothing new

    about_rare, error = questions.right_answers(asked, sizes) - 0.5, standard_error(rare)
    answers = [(questions.right_answers(rng.choice(group, _QUESTIONS), sizes) - 0.5, group) for group in often]
    about_often, group = max(answers, key=lambda answer: answer[0])
    if about_often < _MARGIN * standard_error(group):
        return 0.0
    if about_often - about_rare < _MARGIN * np.hypot(error, standard_error(group)):
        return 0.0
    return float(min(1.0 - about_rare / about_often, 1.0))


class _Questions:
    """Who of two users took an item?

    The answer is who is more like the item's other takers, or those of them that are known: the mean over the user's
    other items j of how many of the takers took j, divided by sqrt(d_j). One user took the item. The other has a random
    interaction, which is left out as the item is of the first, and is not among the takers that are known. So both are
    alike if chance, which gives an item to any interaction's user, made the item's interactions.
    """

    def __init__(self, dataset: Dataset, rng: np.random.Generator) -> None:
        from scipy import sparse  # here and not above: what is switched off need not be imported

        self._rng = rng
        self._users, self._items = users, items = dataset.train.T
        self._counts = counts = np.bincount(items, minlength=dataset.num_items)
        self._activity = np.bincount(users, minlength=dataset.num_users)
        self._worth = 1.0 / np.sqrt(np.maximum(counts, 1))
        shape = (dataset.num_users, dataset.num_items)
        self._taken: Any = sparse.csr_array((np.ones(len(users)), (users, items)), shape=shape)
        self._worths: Any = sparse.csr_array((self._worth[items], (users, items)), shape=shape)
        shuffled = rng.permutation(len(users))
        self._takers = users[shuffled[np.argsort(items[shuffled], kind="stable")]]  # of item 0, of item 1, ...
        self._firsts = np.cumsum(counts) - counts

    def right_answers(self, asked: np.ndarray, sizes: np.ndarray) -> float:
        """The share of right answers about items `asked`; of each, `sizes` takers, 2 or more, the one asked about too.

        Half of an answer is right where both users are equally like the takers.
        """
        parts = [slice(first, first + _AT_ONCE) for first in range(0, len(asked), _AT_ONCE)]
        return float(np.concatenate([self._right(asked[part], sizes[part]) for part in parts]).mean())

    def _right(self, asked: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        known, one = self._draw_takers(asked, sizes)
        row = self._draw_others(known)
        shared = known @ self._taken
        likeness = self._likeness(shared, one, asked)
        other = self._likeness(shared, self._users[row], asked, self._items[row])
        return (likeness > other) + 0.5 * (likeness == other)

    def _draw_takers(self, asked: np.ndarray, sizes: np.ndarray) -> tuple[Any, np.ndarray]:
        """Known takers as rows of ones `[n, U]`, and one more of each item: neighbours at a table, in random order."""
        from scipy import sparse

        rows = np.repeat(np.arange(len(asked)), sizes)
        steps = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        counts = self._counts[asked]
        seats = (self._rng.integers(0, counts)[rows] + steps) % counts[rows]
        takers = self._takers[self._firsts[asked][rows] + seats]
        known = steps > 0
        shape = (len(asked), len(self._activity))
        return sparse.csr_array((np.ones(known.sum()), (rows[known], takers[known])), shape=shape), takers[~known]

    def _draw_others(self, known: Any) -> np.ndarray:
        """Rows of `train`, one for each question, not of a user who is known."""
        rows = np.arange(known.shape[0])
        drawn = self._rng.integers(0, len(self._users), len(rows))
        for _ in range(20):
            again = np.flatnonzero(np.asarray(known[rows, self._users[drawn]]))
            if not len(again):
                break
            drawn[again] = self._rng.integers(0, len(self._users), len(again))
        return drawn

    def _likeness(self, shared: Any, users: np.ndarray, *left_out: np.ndarray) -> np.ndarray:
        """`shared[n, j]`: how many known takers took j. Items `left_out` do not count in the user's history."""
        total, number = np.asarray(shared.multiply(self._worths[users]).sum(axis=1)), self._activity[users]
        rows = np.arange(len(users))
        for i, items in enumerate(left_out):
            new = np.asarray(self._taken[users, items]) * ~np.any([items == before for before in left_out[:i]], axis=0)
            total, number = total - new * np.asarray(shared[rows, items]) * self._worth[items], number - new
        return np.where(total > 1e-9, total, 0.0) / np.maximum(number, 1)  # what rounding leaves is no likeness


def _by_count(counts: np.ndarray) -> list[np.ndarray]:
    """Of the items with two interactions or more: those taken least, those of the middle, those taken most."""
    items = np.flatnonzero(counts > 1)
    items = items[np.argsort(counts[items], kind="stable")]
    ends = [int(share * len(items)) for share in (0.0, _RARE, *_OFTEN, 1.0)]
    return [items[: ends[1]], items[ends[2] : ends[3]], items[ends[3] :]]
