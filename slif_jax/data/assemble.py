"""The one way from what a reader found to a `Dataset`: filter, drop repeats, split, number, check."""

import numpy as np

from slif_jax.data import findings, splits
from slif_jax.data.checks import Locate, validate
from slif_jax.data.dataset import Dataset, Modality, sorted_unique
from slif_jax.data.errors import DataError
from slif_jax.data.raw import SPLITS, Interactions, Names, Raw, Selection

_DENSE = 1 << 20
_NAMELESS = Names(np.zeros(0, np.int32))


def assemble(raw: Raw, selection: Selection) -> Dataset:
    """Makes a data set.

    Interactions below the least rating are dropped, then repeats (the earliest stays; with given labels the one in the
    first of train, valid, test), then users and items outside the k-core; the rest is split. Users without interactions
    are left out. So are items, unless something is known of them (`Raw.known_items`) and nothing was filtered. What is
    left is numbered in the old order; an item that is left out stays in the knowledge graph as another entity.

    Args:
      raw: from a reader.
      selection: what is wanted.

    Returns:
      The data set, checked.

    Raises:
      DataError: if the data cannot be used, or not in this way.
    """
    _check_columns(raw, selection)
    rows = _distinct(raw, selection)
    if selection.k_core:
        rows = _core(raw.name, rows, selection.k_core)
    user_numbers, users = _close_up(rows.users)
    item_numbers, items = _close_up(rows.items, None if selection.filters else raw.known_items)
    labels = rows.labels
    _note_gaps(raw, user_numbers, item_numbers, items, selection)
    if labels is None:
        labels = _split(users, rows.times, len(user_numbers), selection)
    parts = {name: _pairs(users, items, labels == code) for code, name in enumerate(SPLITS)}
    if not len(parts["train"]):
        raise DataError(f"{raw.name}: no interaction is in train; there is nothing to learn from.")
    if len(parts["test"]) and not len(parts["valid"]):
        findings.note("no_validation", f"{raw.name}: there is a test part, but no validation part.")
    triples, entities, relations = _knowledge(raw, item_numbers)
    knowledge = raw.knowledge
    dataset = Dataset(
        name=raw.name,
        num_users=len(user_numbers),
        num_items=len(item_numbers),
        num_entities=len(entities),
        num_relations=len(relations),
        **parts,
        triples=triples,
        features={name: _rows(modality, item_numbers) for name, modality in raw.features.items()},
        user_ids=(raw.user_names or _NAMELESS).of(user_numbers, numbered=True),
        item_ids=(raw.item_names or _NAMELESS).of(item_numbers, numbered=True),
        item_titles=_texts(raw.item_titles, item_numbers),
        entity_names=None if knowledge is None else _texts(knowledge.entities, entities),
        relation_names=None if knowledge is None else _texts(knowledge.relations, relations),
    )
    for name, modality in dataset.features.items():
        missing = dataset.num_items - int(np.count_nonzero(modality.present))
        findings.note("absent_features", f"{raw.name}: {missing} items lack '{name}'.", missing, modality=name)
    return validate(dataset, _locate_rows(raw.locate, item_numbers))


def _check_columns(raw: Raw, selection: Selection) -> None:
    rows = raw.interactions
    if not len(rows.users):
        raise DataError(f"{raw.name}: there are no interactions.")
    if selection.needs_ratings and rows.ratings is None:
        raise DataError(f"{raw.name}: `min_rating` needs ratings, and the data have none.")
    if selection.split == "given" and rows.labels is None:
        raise DataError(f"{raw.name}: the data bring no split; choose another one than 'given'.")
    if selection.split in ("time_user", "time_global") and rows.times is None:
        raise DataError(f"{raw.name}: `split` {selection.split} needs times, and the data have none.")


def _distinct(raw: Raw, selection: Selection) -> Interactions:
    """Applies the least rating, sorts by user, then item, and drops repeats."""
    users, items, labels, ratings, times = raw.interactions
    if labels is not None and selection.split not in ("auto", "given"):
        findings.note("labels_ignored", f"{raw.name}: the split of the data is ignored for '{selection.split}'.")
        labels = None
    if not selection.needs_times or labels is not None:
        times = None
    if selection.needs_ratings and ratings is not None:
        high = ratings >= selection.min_rating
        low = len(high) - int(np.count_nonzero(high))
        findings.note("filtered", f"{raw.name}: {low} interactions are rated below {selection.min_rating:g}.", low)
        users, items = users[high], items[high]
        labels, times = (None if column is None else column[high] for column in (labels, times))
        if not len(users):
            raise DataError(f"{raw.name}: no interaction is rated {selection.min_rating:g} or more.")
    num_items = int(items.max()) + 1
    if (int(users.max()) + 1) * num_items * len(SPLITS) >= 2**63:
        raise DataError(f"{raw.name}: user {users.max()} and item {num_items - 1} are too large numbers together.")
    keys = users.astype(np.int64)
    keys *= num_items
    keys += items
    if times is not None:
        order = np.lexsort((times, keys))
        keys, times = keys[order], times[order]
    else:
        if labels is not None:
            keys *= len(SPLITS)
            keys += labels
        keys.sort()
    if labels is not None:
        labels = _remainder(keys, len(SPLITS), np.int8)
        keys //= len(SPLITS)
    first = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    if not first.all():
        _note_repeats(raw, keys, labels, first, num_items)
        keys = keys[first]
        labels, times = (None if column is None else column[first] for column in (labels, times))
    items = _remainder(keys, num_items, np.int32)
    keys //= num_items
    return Interactions(keys.astype(np.int32), items, labels, None, times)


def _remainder(keys: np.ndarray, size: int, dtype: type) -> np.ndarray:
    """`keys % size` in a small type, without a second array of 64-bit numbers."""
    rest = np.empty(len(keys), dtype)
    for start in range(0, len(keys), _DENSE):
        rest[start : start + _DENSE] = keys[start : start + _DENSE] % size
    return rest


def _note_repeats(raw: Raw, keys: np.ndarray, labels: np.ndarray | None, first: np.ndarray, num_items: int) -> None:
    if labels is None:
        count = int(np.count_nonzero(~first))
        findings.note("duplicates", f"{raw.name}: {count} repeated rows were dropped.", count)
        return
    repeated = ~first[1:]
    same = repeated & (labels[1:] == labels[:-1])
    other = repeated & ~same
    if raw.strict and other.any():
        row = int(np.argmax(other)) + 1
        user, item = divmod(int(keys[row]), num_items)
        one, two = SPLITS[labels[row - 1]], SPLITS[labels[row]]
        where = raw.name if raw.locate is None else raw.locate(two, (user, item))
        raise DataError(
            f"{where}: user {user} and item {item} are in {one} and in {two}; a pair may be in one split only."
        )
    for code, name in enumerate(SPLITS):
        count = int(np.count_nonzero(same & (labels[1:] == code)))
        findings.note("duplicates", f"{raw.name}: {count} repeated rows were dropped from {name}.", count, split=name)
    count = int(np.count_nonzero(other))
    text = f"{raw.name}: {count} pairs were in several splits; each stays in the first of {', '.join(SPLITS)}."
    findings.note("several_splits", text, count)


def _core(name: str, rows: Interactions, k: int) -> Interactions:
    kept = splits.k_core(_close_up(rows.users)[1], _close_up(rows.items)[1], k)
    if not kept.any():
        raise DataError(f"{name}: no users and items are left by `k_core` {k}; use a smaller one.")
    dropped = len(kept) - int(np.count_nonzero(kept))
    findings.note("filtered", f"{name}: {dropped} interactions are outside the {k}-core.", dropped)
    return rows.where(kept)


def _split(users: np.ndarray, times: np.ndarray | None, num_users: int, selection: Selection) -> np.ndarray:
    rng = np.random.default_rng(selection.split_seed)
    degrees = np.bincount(users, minlength=num_users)
    if selection.split == "time_global" and times is not None:
        return splits.split_at_times(times)
    if selection.split in ("leave_one_out", "time_user"):
        alone = selection.split == "leave_one_out"
        return splits.split_by_time(rng, users, times, degrees, leave_one_out=alone)
    return splits.split_by_sorting(rng, users, degrees)


def _close_up(ids: np.ndarray, known: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Finds the numbers that occur, or are known, and each id's place among them. Both int32, the numbers ascending."""
    known = np.zeros(0, np.int32) if known is None else known
    size = max(int(ids.max(initial=-1)), int(known.max(initial=-1))) + 1
    if size <= 4 * (len(ids) + len(known)) + _DENSE:  # a flag per number is faster than sorting
        there = np.zeros(size, np.bool_)
        there[ids] = True
        there[known] = True
        found = np.flatnonzero(there).astype(np.int32)
        if len(found) == size:
            return found, ids
        place = np.cumsum(there, dtype=np.int32)
        place -= 1
        return found, place[ids]
    found = np.union1d(ids, known).astype(np.int32)
    return found, np.searchsorted(found, ids).astype(np.int32)


def _pairs(users: np.ndarray, items: np.ndarray, here: np.ndarray) -> np.ndarray:
    pairs = np.empty((int(np.count_nonzero(here)), 2), np.int32)
    pairs[:, 0], pairs[:, 1] = users[here], items[here]
    return pairs


def _note_gaps(raw: Raw, users: np.ndarray, numbers: np.ndarray, items: np.ndarray, selection: Selection) -> None:
    if selection.filters:
        return
    empty = int(users[-1]) + 1 - len(users)
    findings.note("empty_users", f"{raw.name}: {empty} user numbers without any interaction were left out.", empty)
    gaps = raw.num_items - len(numbers)
    findings.note("item_gaps", f"{raw.name}: {gaps} item numbers of which nothing is known were left out.", gaps)
    silent = int(np.count_nonzero(np.bincount(items, minlength=len(numbers)) == 0))
    findings.note("silent_items", f"{raw.name}: {silent} items have no interaction at all; they are kept.", silent)


def _knowledge(raw: Raw, items: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers entities and relations anew.

    Returns:
      Triples `[T, 3]` int32; the old numbers of the entities, items first, and of the relations.
    """
    knowledge = raw.knowledge
    if knowledge is None:
        return np.zeros((0, 3), np.int32), items, np.zeros(0, np.int32)
    heads, links, tails = knowledge.triples.T
    others, _ = _close_up(np.concatenate([heads, tails]), _known(knowledge.entities))
    others = np.setdiff1d(others, items, assume_unique=True)
    entities = np.concatenate([items, others])
    relations, links = _close_up(links, _known(knowledge.relations))
    if not np.array_equal(entities, np.arange(len(entities))):
        order = np.argsort(entities)
        ranked = entities[order]
        heads, tails = (order[np.searchsorted(ranked, ends)].astype(np.int32) for ends in (heads, tails))
    triples, repeats = sorted_unique([heads, links, tails])
    findings.note("repeated_triples", f"{raw.name}: {repeats} repeated triples were dropped.", repeats)
    loops = int(np.count_nonzero(triples[:, 0] == triples[:, 2]))
    findings.note("self_loops", f"{raw.name}: {loops} triples lead from an entity to itself; they are kept.", loops)
    linked = np.zeros(len(entities), np.bool_)
    linked[triples[:, 0]] = linked[triples[:, 2]] = True
    lonely = int(np.count_nonzero(~linked[: len(items)]))
    findings.note("unlinked_items", f"{raw.name}: {lonely} items are in no triple; they are kept.", lonely)
    return triples, entities, relations


def _known(names: Names | None) -> np.ndarray | None:
    return None if names is None else names.ids


def _rows(modality: Modality, items: np.ndarray) -> Modality:
    """The features of the items that are left; untouched, perhaps on disk, where that is all of them."""
    if len(items) == len(modality.present):
        return modality
    return Modality(modality.values[items], modality.present[items])


def _texts(names: Names | None, ids: np.ndarray) -> np.ndarray | None:
    return None if names is None or names.texts is None else names.of(ids)


def _locate_rows(locate: Locate | None, items: np.ndarray) -> Locate | None:
    """A row of the features is named by its number in the source."""
    if locate is None:
        return None
    return lambda part, key: locate(part, int(items[key]) if isinstance(key, int) and part != "triples" else key)
