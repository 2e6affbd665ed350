"""Looks over a loaded data set for what is legal but odd: cold users, silent features, a graph without news."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from slif_jax.data.dataset import Dataset, Modality

_BLOCK_VALUES = 1 << 23
_QUANTILES = {"min": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "max": 1.0}
_MANY = 0.1  # shares above this are warned of, below it remarked


@dataclasses.dataclass(frozen=True)
class Observation:
    """Something to know of a data set."""

    kind: str
    level: str
    """'warning': results will suffer or mislead; 'remark': good to know."""
    message: str
    count: int


def describe(dataset: Dataset) -> tuple[dict[str, Any], list[Observation]]:
    """Sizes and degree quantiles of a data set, and what is odd about it.

    Args:
      dataset: loaded data.

    Returns:
      JSON types by section, and the observations, warnings first.
    """
    seen: list[Observation] = []
    sections = {
        "sizes": _sizes(dataset),
        "degrees": _degrees(dataset),
        "splits": _splits(dataset, seen),
        "features": {name: _features(name, modality, seen) for name, modality in dataset.features.items()},
        "knowledge_graph": _knowledge(dataset, seen),
    }
    seen.sort(key=lambda found: found.level != "warning")
    return sections, seen


def _sizes(dataset: Dataset) -> dict[str, Any]:
    rows = sum(len(part) for part in dataset.splits.values())
    return {
        "users": dataset.num_users,
        "items": dataset.num_items,
        "interactions": rows,
        "density": rows / (dataset.num_users * dataset.num_items),
        "train": len(dataset.train),
        "valid": len(dataset.valid),
        "test": len(dataset.test),
        "entities": dataset.num_entities,
        "relations": dataset.num_relations,
        "triples": len(dataset.triples),
    }


def _quantiles(counts: np.ndarray) -> dict[str, int]:
    if not len(counts):
        return {}
    values = np.quantile(counts, list(_QUANTILES.values()), method="inverted_cdf")
    return {name: int(value) for name, value in zip(_QUANTILES, values, strict=True)}


def _degrees(dataset: Dataset) -> dict[str, dict[str, int]]:
    found = {
        "training interactions per user": _quantiles(np.bincount(dataset.train[:, 0], minlength=dataset.num_users)),
        "training interactions per item": _quantiles(np.bincount(dataset.train[:, 1], minlength=dataset.num_items)),
    }
    if len(dataset.triples):
        links = np.bincount(dataset.triples[:, [0, 2]].reshape(-1), minlength=dataset.num_entities)
        found["triples per item"] = _quantiles(links[: dataset.num_items])
        found["triples per other entity"] = _quantiles(links[dataset.num_items :])
    return found


def _level(part: int, whole: int) -> str:
    return "warning" if part > _MANY * whole else "remark"


def _splits(dataset: Dataset, seen: list[Observation]) -> dict[str, Any]:
    warm_users = np.bincount(dataset.train[:, 0], minlength=dataset.num_users) > 0
    warm_items = np.bincount(dataset.train[:, 1], minlength=dataset.num_items) > 0
    found = {}
    for name in ("valid", "test"):
        pairs = dataset.splits[name]
        users = np.unique(pairs[:, 0])
        cold_users = int((~warm_users[users]).sum())
        cold_rows = int((~warm_items[pairs[:, 1]]).sum())
        cold_items = len(np.unique(pairs[~warm_items[pairs[:, 1]], 1]))
        found[name] = {
            "users": len(users),
            "users without training interactions": cold_users,
            "interactions with items not in train": cold_rows,
            "items not in train": cold_items,
        }
        if not len(pairs):
            what = "the last epoch is taken as it is" if name == "valid" else "no result can be measured"
            seen.append(Observation(f"no_{name}", "warning", f"{name} is empty: {what}.", 1))
        if cold_users:
            message = f"{name}: {cold_users:,} of {len(users):,} users have no training interactions."
            seen.append(Observation("cold_users", _level(cold_users, len(users)), message, cold_users))
        if cold_rows:
            message = f"{name}: {cold_rows:,} of {len(pairs):,} interactions are with items that are not in train."
            seen.append(Observation("cold_items", _level(cold_rows, len(pairs)), message, cold_rows))
    silent = int((~warm_items).sum())
    if silent:
        message = f"{silent:,} of {dataset.num_items:,} items have no training interactions; they are candidates too."
        seen.append(Observation("items_not_in_train", "remark", message, silent))
    return found


def _features(name: str, modality: Modality, seen: list[Observation]) -> dict[str, Any]:
    values, present = modality.values, modality.present
    num_items, width = values.shape
    least, most = np.full(width, np.inf), np.full(width, -np.inf)
    norms = np.zeros(num_items)
    rows: dict[bytes, int] = {}
    block = max(1, _BLOCK_VALUES // width)
    for start in range(0, num_items, block):
        here = np.flatnonzero(present[start : start + block])
        part = np.asarray(values[start : start + block], np.float32)[here]
        if not len(part):
            continue
        least, most = np.minimum(least, part.min(axis=0)), np.maximum(most, part.max(axis=0))
        norms[start + here] = np.linalg.norm(part.astype(np.float64), axis=1)
        for row in np.ascontiguousarray(part):
            key = row.tobytes() if width <= 16 else _digest(row)
            rows[key] = rows.get(key, 0) + 1
    have = int(present.sum())
    missing, zero = num_items - have, int((norms[present] == 0).sum())
    constant = int((least == most).sum())
    repeated = sum(count for count in rows.values() if count > 1) - max(zero, 0) * (zero > 1)

    def note(kind: str, level: str, message: str, count: int) -> None:
        if count:
            seen.append(Observation(kind, level, f"{name}: {message}", count))

    note("absent_features", "warning" if 2 * missing > num_items else "remark", f"{missing:,} items lack it.", missing)
    note("zero_features", "warning", f"{zero:,} items have zeros only; if they lack it, a mask should say so.", zero)
    if constant == width and have:
        note("constant_features", "warning", "every item has the same features: they say nothing.", have)
    else:
        note("constant_columns", "remark", f"{constant:,} of {width:,} columns are constant.", constant)
        message = f"{repeated:,} items share their features with another item: the same thing under two ids?"
        note("repeated_features", "remark", message, repeated)
    lengths = np.quantile(norms[present], [0, 0.5, 1]).tolist() if have else []
    return {
        "width": width,
        "dtype": str(values.dtype),
        "items": have,
        "missing": missing,
        "all zero": zero,
        "constant columns": constant,
        "sharing their features": repeated,
        "length, min / median / max": [round(value, 4) for value in lengths],
    }


def _digest(row: np.ndarray) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _knowledge(dataset: Dataset, seen: list[Observation]) -> dict[str, Any]:
    triples = dataset.triples
    if not len(triples):
        return {}
    num_items, num_triples = dataset.num_items, len(triples)
    head, relation, tail = triples.T
    links = np.bincount(triples[:, [0, 2]].reshape(-1), minlength=dataset.num_entities)
    unlinked = int((links[:num_items] == 0).sum())
    others = links[num_items:]
    lonely, unused = int((others == 1).sum()), int((others == 0).sum())
    item_pairs = int(((head < num_items) & (tail < num_items)).sum())
    without_items = int(((head >= num_items) & (tail >= num_items)).sum())
    loops = int((head == tail).sum())
    pairs = np.unique(relation.astype(np.int64) * dataset.num_entities + tail)
    tails_of = np.bincount(pairs // dataset.num_entities, minlength=dataset.num_relations)
    settled = int((tails_of[relation] == 1).sum())

    def note(kind: str, level: str, message: str, count: int) -> None:
        if count:
            seen.append(Observation(kind, level, f"knowledge graph: {message}", count))

    message = f"{unlinked:,} of {num_items:,} items are in no triple."
    note("unlinked_items", "warning" if 2 * unlinked > num_items else "remark", message, unlinked)
    if settled == num_triples:
        message = "in every triple the tail follows from the relation (one tail per relation): it says nothing more."
        note("tails_repeat_relations", "warning", message, settled)
    else:
        message = f"{settled:,} of {num_triples:,} triples have a relation with one tail only: they say nothing more."
        note("tails_repeat_relations", _level(settled, num_triples), message, settled)
    note("lonely_entities", "remark", f"{lonely:,} entities have one triple and so connect nothing.", lonely)
    note("unused_entities", "remark", f"{unused:,} entities are in no triple.", unused)
    note("self_loops", "remark", f"{loops:,} triples go from an entity to itself.", loops)
    silent = dataset.num_relations - len(np.unique(relation))
    note("unused_relations", "remark", f"{silent:,} of {dataset.num_relations:,} relations are in no triple.", silent)
    return {
        "items in triples": num_items - unlinked,
        "triples between items": item_pairs,
        "triples without items": without_items,
        "self-loops": loops,
        "entities with one triple": lonely,
        "entities without triples": unused,
        "triples whose tail follows from the relation": settled,
    }
