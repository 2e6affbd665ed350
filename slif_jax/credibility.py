"""How credible each training interaction is: some were made by chance, and should count less.

Chance takes items that nobody else takes as often as any. What it adds is estimated from the items that are taken
least, and an interaction is the less credible the more of its kind chance alone would make.
"""

import dataclasses

import numpy as np

from slif_jax.data import Dataset

_LEAST_TAKEN = 0.3  # of the items: what they have in common is what chance gives to every item
_RAREST = 0.01  # of the items: what these have is no more than what made them items of the data set
_SUSPICION = 1.5  # times as much is taken for chance: what slips through costs more than what is wronged
_LEAST = 0.05
_MOST_DENSE = 3000  # items for which an inverse of all pairs is made
_L2 = 100.0  # of the regression
_PAIRS = 1 << 20  # of each kind, at most, to tell interactions from chance by
_USERS_AT_ONCE = 1024


def weigh_interactions(dataset: Dataset) -> Dataset:
    """Estimates how credible each training interaction is.

    Interactions are taken for a mixture: a share e of pairs of an active user and any item, by chance, and what users
    wanted. With r the density of an interaction's marks among all interactions by that among pairs by chance, it was
    made by chance with probability e / r, and its weight is 1 - e / r, 0.05 at least. Chance gives every item lambda
    interactions, so e = lambda I / n for n interactions with I items; lambda is 1.5 times what the 30 % of the items
    with fewest interactions have in the mean beyond the number that only 1 % of the items do not exceed. Where many
    items have one interaction alone, lambda is 0 and nothing is weighed.

    The marks are the item's number of interactions d: then r = d I / n, and the weight is 1 - lambda / d. With up to
    3,000 items there is also what the user's other items say of it: the prediction of a ridge regression from item to
    item (EASE, lambda 100, users weighed by the root of their activity), in closed form as if this interaction had not
    been there. r is then that of a logistic regression which tells the interactions from random pairs.

    Args:
      dataset: loaded data.

    Returns:
      The data set with `train_weights`; with None for them where nothing is to be weighed.

    Reference: mixtures with chance as in Scott, "A Rate of Convergence for Mixture Proportion Estimation", AISTATS
    2015; density ratios by classification as in Sugiyama et al., "Density Ratio Estimation in Machine Learning", 2012,
    section 4; the regression as in Steck, WWW 2019, and its leave-one-out predictions as in Allen, "The Relationship
    Between Variable Selection and Data Augmentation and a Method for Prediction", Technometrics 1974.
    """
    users, items = dataset.train.T
    counts = np.bincount(items, minlength=dataset.num_items)
    chance = _background(counts[counts > 0])
    if chance <= 0:
        return dataclasses.replace(dataset, train_weights=None)
    by_chance = chance / counts[items]
    if dataset.num_items <= _MOST_DENSE:
        share = chance * np.count_nonzero(counts) / len(items)
        ratios = _density_ratios(dataset, users, items, counts)
        by_chance = by_chance if ratios is None else share / ratios
    return dataclasses.replace(dataset, train_weights=np.maximum(1.0 - by_chance, _LEAST).astype(np.float32))


def _background(counts: np.ndarray) -> float:
    """lambda, from the numbers of interactions of those items that have any."""
    if not len(counts):
        return 0.0
    ascending = np.sort(counts)
    least = ascending[: max(1, int(_LEAST_TAKEN * len(counts)))]
    return _SUSPICION * float(least.mean() - ascending[int(_RAREST * len(counts))])


def _density_ratios(dataset: Dataset, users: np.ndarray, items: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
    """Density of each interaction's marks among all, by that among random pairs; None without any such pair."""
    from sklearn.linear_model import LogisticRegression  # here and not above: it takes over a second to import

    rng = np.random.default_rng(0)
    drawn = min(len(users), _PAIRS)
    pairs = np.stack([users[rng.integers(0, len(users), drawn)], rng.choice(np.flatnonzero(counts), drawn)])
    keys = pairs[0].astype(np.int64) * dataset.num_items + pairs[1]
    pairs = pairs[:, ~np.isin(keys, users.astype(np.int64) * dataset.num_items + items)]
    if not pairs.shape[1]:
        return None
    observed, random = _marks(dataset, users, items, pairs, counts)
    sample = rng.choice(len(observed), drawn, replace=False)
    mean, spread = observed.mean(axis=0), np.maximum(observed.std(axis=0), 1e-9)
    both = (np.concatenate([observed[sample], random]) - mean) / spread
    model = LogisticRegression(max_iter=1000).fit(both, np.arange(len(both)) < drawn)
    return np.exp(model.decision_function((observed - mean) / spread)) * (len(random) / drawn)


def _marks(
    dataset: Dataset, users: np.ndarray, items: np.ndarray, pairs: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Marks of the interactions, each as if it had not been there, and of pairs that are none."""
    from scipy import linalg, sparse

    shape = (dataset.num_users, dataset.num_items)
    history = sparse.csr_array((np.ones(len(users)), (users, items)), shape=shape)
    activity = np.bincount(users, minlength=dataset.num_users)
    root = np.where(activity > 0, 1.0 / np.sqrt(np.maximum(activity, 1)), 0.0)
    root /= np.sqrt(np.mean(root[activity > 0] ** 2))
    weighed = sparse.diags_array(root) @ history
    gram = (weighed.T @ weighed).toarray()
    gram[np.diag_indices_from(gram)] += _L2
    inverse = linalg.inv(gram, overwrite_a=True)
    own = np.diag(inverse)
    # Row u of `history @ inverse` at the items of interactions and pairs, and times the user's own row.
    at_items, at_pairs, squares = np.empty(len(users)), np.empty(pairs.shape[1]), np.empty(dataset.num_users)
    order = np.argsort(pairs[0], kind="stable")
    bounds, pair_bounds = (np.searchsorted(who, np.arange(dataset.num_users + 1)) for who in (users, pairs[0][order]))
    for start in range(0, dataset.num_users, _USERS_AT_ONCE):
        stop = min(start + _USERS_AT_ONCE, dataset.num_users)
        rows = history[start:stop] @ inverse
        squares[start:stop] = np.asarray(history[start:stop].multiply(rows).sum(axis=1)).ravel()
        mine = slice(bounds[start], bounds[stop])
        at_items[mine] = rows[users[mine] - start, items[mine]]
        theirs = order[pair_bounds[start] : pair_bounds[stop]]
        at_pairs[theirs] = rows[pairs[0][theirs] - start, pairs[1][theirs]]
    # The regression of item j on the others has the coefficients -P_kj / P_jj, and the inverse P - P_j P_j^T / P_jj.
    others = at_items - own[items]
    predicted = -others / own[items]
    leverage = root[users] ** 2 * (squares[users] - 2 * at_items + own[items] - others**2 / own[items])
    left_out = 1.0 - (1.0 - predicted) / (1.0 - np.clip(leverage, 0.0, 0.99))

    def marks(prediction: np.ndarray, count: np.ndarray, active: np.ndarray) -> np.ndarray:
        root, log = np.sign(prediction) * np.sqrt(np.abs(prediction)), np.log1p(count)
        return np.stack([prediction, root, log, log**2, np.log1p(active)], axis=1)

    return (
        marks(left_out, counts[items] - 1, activity[users] - 1),
        marks(-at_pairs / own[pairs[1]], counts[pairs[1]], activity[pairs[0]]),
    )
