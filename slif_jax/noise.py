"""Spoils the training part of a data set on purpose: pure functions from data set to data set.

Validation and test interactions stay as they are, so that what is measured on them can be compared. Each function has
its own random numbers from `seed`, which is no seed of the model.
"""

import dataclasses

import numpy as np

from slif_jax.data import DataError, Dataset, Modality, validate

_ROUNDS = 100


def add_interactions(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Adds random training interactions.

    Args:
      dataset: loaded data.
      share: added rows by training rows, 0 or more. Users are drawn by their activity, items uniformly among the items
        in train, so that cold users and cold items stay cold. No pair of any split is drawn.
      seed: of the draws.

    Returns:
      The data set with a longer `train`.

    Raises:
      DataError: if there are too few free pairs.
    """
    wanted = round(share * len(dataset.train))
    if not wanted:
        return dataset
    rng = np.random.default_rng((seed, 1))
    known = [_keys(part, dataset.num_items) for part in dataset.splits.values()]
    taken, items = np.sort(np.concatenate(known)), np.unique(dataset.train[:, 1])
    added = np.zeros(0, np.int64)
    for _ in range(_ROUNDS):
        missing = wanted - len(added)
        if not missing:
            break
        users = dataset.train[rng.integers(0, len(dataset.train), 2 * missing), 0].astype(np.int64)
        drawn = users * dataset.num_items + rng.choice(items, 2 * missing)
        _, firsts = np.unique(drawn, return_index=True)
        fresh = drawn[np.sort(firsts)]
        fresh = fresh[~np.isin(fresh, taken) & ~np.isin(fresh, added)]
        added = np.concatenate([added, fresh[:missing]])
    if len(added) < wanted:
        raise DataError(
            f"{dataset.name}: found only {len(added):,} of {wanted:,} pairs of a user and an item without interaction. "
            "Use a smaller --interaction_noise."
        )
    keys = np.sort(np.concatenate([known[0], added]))
    train = np.stack(np.divmod(keys, dataset.num_items), axis=1).astype(np.int32)
    return validate(dataclasses.replace(dataset, train=train, train_weights=None))


def replace_tails(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Gives some triples a random tail.

    Args:
      dataset: loaded data.
      share: of the triples, in [0, 1]. The new tail is another entity, drawn uniformly among the tails there are.
      seed: of the draws.

    Returns:
      The data set with other `triples`; fewer where a new triple was there already.
    """
    chosen_count = round(share * len(dataset.triples))
    tails = np.unique(dataset.triples[:, 2])
    if not chosen_count or len(tails) < 2:
        return dataset
    rng = np.random.default_rng((seed, 2))
    chosen = rng.choice(len(dataset.triples), chosen_count, replace=False)
    triples = np.array(dataset.triples)
    old = np.searchsorted(tails, triples[chosen, 2])
    triples[chosen, 2] = tails[(old + rng.integers(1, len(tails), chosen_count)) % len(tails)]
    return validate(dataclasses.replace(dataset, triples=np.unique(triples, axis=0)))


def shuffle_features(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Gives some items the features of other items.

    Args:
      dataset: loaded data.
      share: of the items that have a modality, in [0, 1], drawn for each modality anew. Their rows change places in
        one cycle, so that every one of them is wrong and the values as a whole stay what they were.
      seed: of the draws.

    Returns:
      The data set with other `features`.
    """
    features = {}
    for position, (name, modality) in enumerate(dataset.features.items()):
        rng = np.random.default_rng((seed, 3, position))
        owners = np.flatnonzero(modality.present)
        chosen = rng.choice(owners, round(share * len(owners)), replace=False)
        values = modality.values
        if len(chosen) > 1:
            values = np.array(values)
            values[chosen] = values[np.roll(chosen, 1)]
        features[name] = Modality(values, modality.present)
    return dataclasses.replace(dataset, features=features)


def take_away_features(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Makes some items lack a modality.

    Args:
      dataset: loaded data.
      share: of the items that have a modality, in [0, 1], drawn for each modality anew.
      seed: of the draws.

    Returns:
      The data set with fewer items `present` in its modalities. What becomes of such items is a policy:
      `Config.missing_features`.
    """
    features = {}
    for position, (name, modality) in enumerate(dataset.features.items()):
        owners = np.flatnonzero(modality.present)
        gone = np.random.default_rng((seed, 5, position)).choice(owners, round(share * len(owners)), replace=False)
        present = np.array(modality.present)
        present[gone] = False
        features[name] = Modality(modality.values, present)
    return dataclasses.replace(dataset, features=features)


def hold_out_items(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Makes some items cold: takes them out of the training interactions.

    Args:
      dataset: loaded data.
      share: of the items in train, in [0, 1).
      seed: of the draw.

    Returns:
      The data set with a shorter `train`. The items keep their features and triples.

    Raises:
      DataError: if nothing is left in train.
    """
    items = np.unique(dataset.train[:, 1])
    cold = np.random.default_rng((seed, 4)).choice(items, round(share * len(items)), replace=False)
    train = dataset.train[~np.isin(dataset.train[:, 1], cold)]
    return validate(dataclasses.replace(dataset, train=train, train_weights=None)) if len(cold) else dataset


def _keys(pairs: np.ndarray, num_items: int) -> np.ndarray:
    return pairs[:, 0].astype(np.int64) * num_items + pairs[:, 1]
