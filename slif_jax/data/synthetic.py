"""Makes data sets of any size with clusters planted in interactions, knowledge graph and features.

Users and items each belong to one cluster. A user mostly takes items of the own cluster, popular ones first; an item is
mostly linked to entities of its cluster; its features lie around the cluster's centre. So every source of information
helps, and a model that ignores one can be told from a model that uses it.
"""

import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from slif_jax.data import splits
from slif_jax.data.checks import validate
from slif_jax.data.dataset import Dataset, Modality, numbers, sorted_keys, sorted_unique
from slif_jax.data.errors import DataError

_MIN_DEGREE = 3
_MOST = 2**31 - 2  # ids are int32
_MOST_WIDTH = 2**16
_DEGREE_TAIL = 1.5  # P(a user has more than n interactions) falls as n ** -1.5
_POPULARITY_TAIL = 0.8  # the item of popularity rank r is drawn with weight (r + 5) ** -0.8
_MOST_LINKS = 4096
_MODALITIES = {"visual": 32, "text": 24}


def synthetic(
    num_users: int = 300,
    num_items: int = 200,
    num_clusters: int = 8,
    mean_degree: float | int = 12.0,
    num_entities: int | None = None,
    num_relations: int = 4,
    modalities: Mapping[str, int] = _MODALITIES,
    missing: float | int = 0.1,
    noise: float | int = 0.2,
    seed: int = 0,
    links_per_item: int = 4,
) -> Dataset:
    """Makes a data set with planted clusters; ten million interactions take seconds.

    Args:
      num_users: users.
      num_items: items, at least 6.
      num_clusters: planted clusters of users and items; an item's title tells its cluster.
      mean_degree: interactions per user on average, at least 3 and at most half the items. Degrees follow a power law
        with a least degree of 3, popularity of items another.
      num_entities: nodes of the knowledge graph, items included; None is one and a half times the items.
      num_relations: relations of the knowledge graph; 0 makes none.
      modalities: width of the features of each modality.
      missing: share of the items that lack a modality, drawn for each modality by itself.
      noise: from 0 to 1. This share of interactions and links is drawn from all clusters, and features are
        `(1 - noise) * centre + 4 * noise * normal`.
      seed: of everything. Interactions, graph and each modality have random numbers of their own, so a change in one
        leaves the others as they are.
      links_per_item: triples drawn for each item, up to 4,096; those drawn twice count once.

    Returns:
      The data set, checked, split 80/10/10 per user.

    Raises:
      DataError: if an argument is out of range.
    """
    _check(num_users >= 1, "num_users", "at least 1", num_users)
    _check(num_items >= 2 * _MIN_DEGREE, "num_items", f"at least {2 * _MIN_DEGREE}", num_items)
    _check(1 <= num_clusters <= num_items, "num_clusters", f"from 1 to num_items={num_items}", num_clusters)
    most = num_items // 2
    _check(_MIN_DEGREE <= mean_degree <= most, "mean_degree", f"from {_MIN_DEGREE} to {most}", mean_degree)
    _check(num_relations >= 0, "num_relations", "at least 0", num_relations)
    _check(0 <= missing < 1, "missing", "at least 0 and below 1", missing)
    _check(0 <= noise <= 1, "noise", "from 0 to 1", noise)
    _check(seed >= 0, "seed", "at least 0", seed)
    _check(1 <= links_per_item <= _MOST_LINKS, "links_per_item", f"from 1 to {_MOST_LINKS}", links_per_item)
    if num_entities is None:
        num_entities = num_items + num_items // 2 if num_relations else num_items
    _check(num_entities >= num_items, "num_entities", f"at least num_items={num_items}", num_entities)
    sizes = {"users": num_users, "items": num_items, "entities": num_entities, "relations": num_relations}
    for name, size in sizes.items():
        _check(size <= _MOST, f"num_{name}", f"at most {_MOST}", size)
    for name, width in modalities.items():
        _check(width >= 1, f"the width of modality '{name}'", "at least 1", width)
        _check(width <= _MOST_WIDTH, f"the width of modality '{name}'", f"at most {_MOST_WIDTH}", width)

    rng = np.random.default_rng([seed, 0])
    clusters = rng.permutation(np.arange(num_items) % num_clusters)
    users, items = _interactions(rng, num_users, clusters, num_clusters, mean_degree, noise)
    parts = splits.split_by_sorting(rng, users, np.bincount(users, minlength=num_users))
    pairs = np.stack([users, items], axis=1)
    titles = [f"cluster {cluster}, item {item}" for item, cluster in enumerate(clusters.tolist())]
    dataset = Dataset(
        name="synthetic",
        num_users=num_users,
        num_items=num_items,
        num_entities=num_entities,
        num_relations=num_relations,
        train=pairs[parts == 0],
        valid=pairs[parts == 1],
        test=pairs[parts == 2],
        triples=_triples(
            np.random.default_rng([seed, 1]),
            np.repeat(np.arange(num_items), links_per_item),
            clusters,
            num_clusters,
            num_entities,
            num_relations,
            noise,
        ),
        features={
            name: _modality(np.random.default_rng([seed, 2, *name.encode()]), clusters, width, missing, noise)
            for name, width in modalities.items()
        },
        user_ids=numbers(num_users),
        item_ids=numbers(num_items),
        item_titles=np.array(titles, dtype=np.str_),
        relation_names=np.array([f"relation {r}" for r in range(num_relations)], np.str_) if num_relations else None,
    )
    return validate(dataset)


def from_spec(spec: str) -> Dataset:
    """Makes the data set that a text such as `synthetic:users=1000,items=500,seed=3` describes.

    Args:
      spec: `synthetic`, or `synthetic:` and `name=value` pairs with commas between them. The names are the arguments
        of `synthetic`, with or without `num_` and `mean_`; modalities are written `modalities=visual:32+text:24` or
        `modalities=none`.

    Returns:
      The data set.

    Raises:
      DataError: if a name is unknown or given twice, or a value is not of its kind.
    """
    signature = inspect.signature(synthetic).parameters
    names = {_short(name): name for name in signature}
    given: dict[str, Any] = {}
    for pair in filter(None, spec.partition(":")[2].split(",")):
        short, equals, text = (part.strip() for part in pair.partition("="))
        name = names.get(_short(short))
        if name is None:
            match = difflib.get_close_matches(_short(short), names, n=1)
            hint = f" Did you mean '{match[0]}'?" if match else ""
            raise DataError(f"synthetic has no argument '{short}'.{hint} It has: {', '.join(names)}.")
        if not equals or not text:
            raise DataError(f"synthetic: expected '{short}=value', got '{pair}'.")
        if name in given:
            raise DataError(f"synthetic: '{short}' is given twice.")
        given[name] = _parse(name, text)
    return synthetic(**given)


def _short(name: str) -> str:
    return name.removeprefix("num_").removeprefix("mean_")


def _parse(name: str, text: str) -> Any:
    kind = float if name in ("mean_degree", "missing", "noise") else int
    try:
        if name == "modalities":
            pairs = [] if text == "none" else [part.split(":") for part in text.split("+")]
            widths = {modality: int(width) for modality, width in pairs}
            if len(widths) < len(pairs) or not all(re.fullmatch(r"\w[\w.-]*", modality) for modality in widths):
                raise ValueError("a name twice, or one that is no word")
            return widths
        return kind(text)
    except ValueError:
        words = {float: "a number", int: "an integer"}[kind]
        words = "widths such as visual:32+text:24, or none," if name == "modalities" else words
        raise DataError(f"synthetic: expected {words} for '{_short(name)}', got '{text}'.") from None


def _check(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise DataError(f"synthetic: {name} must be {rule}, got {value}.")


def _degrees(rng: np.random.Generator, num_users: int, mean: float | int, most: int) -> np.ndarray:
    """Draws user degrees from a power law, scaled so that their mean is right after the cut at `most`."""
    excess, fraction = rng.pareto(_DEGREE_TAIL, num_users), rng.random(num_users)

    def scaled(scale: float | int) -> np.ndarray:
        return np.minimum(_MIN_DEGREE + np.floor(np.minimum(scale * excess, most) + fraction), most).astype(np.int64)

    low, high = 0.0, float(most)
    while scaled(high).mean() < mean and high < 1e12:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if scaled(middle).mean() < mean else (low, middle)
    return scaled(high) if mean > _MIN_DEGREE else np.full(num_users, _MIN_DEGREE)


def _interactions(
    rng: np.random.Generator,
    num_users: int,
    clusters: np.ndarray,
    num_clusters: int,
    mean_degree: float | int,
    noise: float | int,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws each user's items without repeats. Returns (users, items), sorted, int32."""
    num_items = len(clusters)
    weights = (rng.permutation(num_items) + 5.0) ** -_POPULARITY_TAIL
    order = np.argsort(clusters, kind="stable")  # a cluster is a stretch of this order
    bounds = np.searchsorted(clusters[order], np.arange(num_clusters + 1))
    ends = np.concatenate([[0.0], np.cumsum(weights[order])])
    taste = rng.integers(0, num_clusters, num_users)
    need = _degrees(rng, num_users, mean_degree, num_items // 2)
    keys = np.zeros(0, np.int64)
    attempt = 0
    while need.any():
        users = np.repeat(np.arange(num_users), need)
        # Users who have most of their cluster already look further afield, in the end anywhere.
        own = rng.random(len(users)) < (1 - noise) * 0.5 ** max(0, attempt - 3)
        first = np.where(own, bounds[taste[users]], 0)
        last = np.where(own, bounds[taste[users] + 1], num_items)
        if attempt < 8:
            drawn = ends[first] + rng.random(len(users)) * (ends[last] - ends[first])
            places = np.clip(np.searchsorted(ends, drawn, side="right") - 1, first, last - 1)
        else:
            places = rng.integers(0, num_items, len(users))
        fresh = sorted_keys(users * num_items + order[places])
        spots = np.searchsorted(keys, fresh)
        new = np.ones(len(fresh), np.bool_) if not len(keys) else keys[np.minimum(spots, len(keys) - 1)] != fresh
        keys = np.insert(keys, spots[new], fresh[new])
        need = need - np.bincount(fresh[new] // num_items, minlength=num_users)
        attempt += 1
    return (keys // num_items).astype(np.int32), (keys % num_items).astype(np.int32)


def _triples(
    rng: np.random.Generator,
    heads: np.ndarray,
    clusters: np.ndarray,
    num_clusters: int,
    num_entities: int,
    num_relations: int,
    noise: float | int,
) -> np.ndarray:
    """Links each head to an entity, mostly of its own cluster; an entity is always met by the same relation."""
    num_items = len(clusters)
    if not num_relations:
        return np.zeros((0, 3), np.int32)
    if num_entities > num_items:
        pool = num_items + rng.permutation(num_entities - num_items)
        kinds = np.arange(len(pool)) * num_clusters // len(pool)  # ascending, so a cluster is a stretch of the pool
    else:  # nothing but items: they are linked to one another
        pool = np.argsort(clusters, kind="stable")
        kinds = clusters[pool]
    bounds = np.searchsorted(kinds, np.arange(num_clusters + 1))
    relations = rng.integers(0, num_relations, num_entities)
    first, last = bounds[clusters[heads]], bounds[clusters[heads] + 1]
    own = (rng.random(len(heads)) >= noise) & (last > first)
    first, last = np.where(own, first, 0), np.where(own, last, len(pool))
    tails = pool[rng.integers(first, last)]
    kept = heads != tails
    return sorted_unique([heads[kept], relations[tails[kept]], tails[kept]])[0]


def _modality(
    rng: np.random.Generator, clusters: np.ndarray, width: int, missing: float | int, noise: float | int
) -> Modality:
    centres = rng.standard_normal((int(clusters.max()) + 1, width), dtype=np.float32)
    values = rng.standard_normal((len(clusters), width), dtype=np.float32)
    values *= np.float32(4 * noise)
    values += np.float32(1 - noise) * centres[clusters]
    present = rng.random(len(clusters)) >= missing
    present[0] |= not present.any()
    values[~present] = 0
    return Modality(values, present)
