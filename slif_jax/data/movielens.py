"""The built-in data set `ml-100k`: MovieLens-100K with a knowledge graph and two modalities made of its own tables."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slif_jax.data import fetch, splits, tables
from slif_jax.data.dataset import Modality, sorted_unique
from slif_jax.data.id_tables import with_years
from slif_jax.data.raw import Interactions, Knowledge, Names, Raw, Selection

_MIN_RATING = 4
_MIN_POSITIVES = 5
_MIN_RELATION_TRIPLES = 50
_MIN_ENTITY_NEIGHBOURS = 2
_TEXT_WIDTH = 64
_ARTICLE = re.compile(r"^(.*?), (The|An?|Le|La|Les|L'|Il|Der|Die|Das|El|Los|Las)(?=$| )(.*)$")  # "Net, The"


def read_ml_100k(data_dir: Path, selection: Selection) -> Raw:
    """Reads MovieLens-100K; the first call downloads 2 MB.

    Positives are ratings of 4 and 5; users with at least 5 of them are kept, and the items they rated so. Users and
    items are numbered in the order of their original ids. Each user's positives are split 80/10/10 at random: that is
    the split that these data bring.

    Args:
      data_dir: where the tables are kept.
      selection: its `split_seed` is the seed of that split.

    Returns:
      Ratings and times; a knowledge graph of Freebase links, genres and decades; modalities `attributes` (genres and
      decade, multi-hot) and `text` (TF-IDF of the title's words and pairs of words, reduced to 64 numbers).

    Raises:
      DataError: if the tables cannot be fetched or read.
    """
    folder = fetch.ml_100k_folder(data_dir)
    rows, user_ids, item_ids = _positives(folder / "ml-100k.inter")
    titles, years, genres = _films(folder / "ml-100k.item", item_ids)
    labels = splits.split_by_permutation(np.random.default_rng(selection.split_seed), np.bincount(rows.users))
    triples, entity_names, relation_names = _knowledge(folder, item_ids, years, genres)
    return Raw(
        name="ml-100k",
        interactions=rows._replace(labels=labels),
        num_items=len(item_ids),
        user_names=_names([str(user) for user in user_ids]),
        item_names=_names([str(item) for item in item_ids]),
        item_titles=_names(with_years(np.array(titles, np.str_), np.array(years, np.str_))),
        knowledge=Knowledge(triples, _names(entity_names), _names(relation_names)),
        features={"attributes": _attributes(years, genres), "text": _text(titles)},
    )


def _names(texts: Sequence[str] | np.ndarray) -> Names:
    return Names(np.arange(len(texts), dtype=np.int32), np.array(texts, np.str_))


def _positives(path: Path) -> tuple[Interactions, np.ndarray, np.ndarray]:
    """Returns interactions sorted and renumbered, and the original ids of users and items."""
    ids = ("user_id:token", "item_id:token")
    scores = ("rating:float", "timestamp:float")
    parsers: dict[str, tables.Parser] = {
        name: tables.floats if name in scores else tables.integers for name in ids + scores
    }
    found = tables.read_columns(path, parsers)
    users, items, ratings, times = (found[name] for name in (*ids, *scores))
    kept = ratings >= _MIN_RATING
    kept &= np.bincount(users[kept], minlength=int(users.max()) + 1)[users] >= _MIN_POSITIVES
    order = np.flatnonzero(kept)[np.lexsort((items[kept], users[kept]))]
    user_ids, users = np.unique(users[order], return_inverse=True)
    item_ids, items = np.unique(items[order], return_inverse=True)
    codes = (column.astype(np.int32) for column in (users, items))
    return Interactions(*codes, ratings=ratings[order], times=times[order]), user_ids, item_ids


def _films(path: Path, item_ids: np.ndarray) -> tuple[list[str], list[str], list[list[str]]]:
    """Returns title, year ('' where unknown) and genres of each film.

    Two rows of the source are odd: 267 has no title, year or genre; 1412 has its year in the title.
    """
    columns = ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
    table = tables.read_strings(path, required=columns)
    rows = {int(row[0] or 0): row[1:] for row in table.select(columns).iter_rows()}
    titles, years, genres = [], [], []
    for item in item_ids.tolist():
        title, year, words = (cell or "" for cell in rows.get(item, ("", "", "")))
        if not re.fullmatch(r"\d{4}", year):
            found = re.fullmatch(r"(.*) \((\d{4})\)", title)
            title, year = found.groups() if found else (title, "")
        titles.append(title)
        years.append(year)
        genres.append(sorted(set(words.split()) - {"unknown"}))
    return titles, years, genres


def _knowledge(
    folder: Path, item_ids: np.ndarray, years: list[str], genres: list[list[str]]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Returns triples, entity names and relation names."""
    path = folder / "ml-100k.link"
    parsers = {"item_id:token": tables.integers, "entity_id:token": tables.texts}
    links = list(tables.read_columns(path, parsers).values())
    linked = dict(zip(links[0].tolist(), links[1].tolist(), strict=True))
    item_names = [linked.get(item, "") for item in item_ids.tolist()]
    number = {name: item for item, name in enumerate(item_names) if name}
    columns = ("head_id:token", "relation_id:token", "tail_id:token")
    source = tables.read_strings(folder / "ml-100k.kg", required=columns).select(columns)
    rows = [row for row in source.iter_rows() if row[0] in number or row[2] in number]
    relations = np.array([row[1] for row in rows])
    others = sorted({name for row in rows for name in (row[0], row[2])} - number.keys())
    number |= {name: len(item_ids) + place for place, name in enumerate(others)}
    heads, tails = (np.array([number[row[end]] for row in rows]) for end in (0, 2))
    kept = _peel(heads, relations, tails, len(item_ids))
    heads, relations, tails = heads[kept], relations[kept], tails[kept]

    # Number what is left: entities by name, relations by how often they occur, then our own.
    used = np.unique(np.concatenate([heads, tails]))
    used = used[used >= len(item_ids)]
    decades = sorted({_decade(year) for year in years if year})
    kinds = sorted({f"genre:{genre}" for film in genres for genre in film})
    entity_names = [*item_names, *(others[entity - len(item_ids)] for entity in used), *decades, *kinds]
    renumber = np.arange(len(item_ids) + len(others))
    renumber[used] = len(item_ids) + np.arange(len(used))
    names, codes, counts = np.unique(relations, return_inverse=True, return_counts=True)
    by_count = np.argsort(-counts, kind="stable")
    relation_names = [*names[by_count].tolist(), "item.genre", "item.decade"]
    place = {name: len(item_ids) + len(used) + index for index, name in enumerate([*decades, *kinds])}
    own = [(item, len(names), place[f"genre:{genre}"]) for item, film in enumerate(genres) for genre in film]
    own += [(item, len(names) + 1, place[_decade(year)]) for item, year in enumerate(years) if year]
    freebase = np.stack([renumber[heads], np.argsort(by_count)[codes], renumber[tails]], axis=1)
    triples, _ = sorted_unique(list(np.concatenate([freebase, np.array(own)]).T))
    return triples, entity_names, relation_names


def _peel(heads: np.ndarray, relations: np.ndarray, tails: np.ndarray, num_items: int) -> np.ndarray:
    """Drops rare relations and entities with fewer than two neighbours until none is left. Returns the rows kept."""
    kept = np.ones(len(heads), np.bool_)
    codes = np.unique(relations, return_inverse=True)[1]
    while True:
        one, other = heads[kept], tails[kept]
        neighbours, _ = sorted_unique([np.concatenate([one, other]), np.concatenate([other, one])])
        degree = np.bincount(neighbours[:, 0], minlength=int(max(heads.max(), tails.max())) + 1)
        fine = degree >= _MIN_ENTITY_NEIGHBOURS
        fine[:num_items] = True
        common = np.bincount(codes[kept], minlength=int(codes.max()) + 1) >= _MIN_RELATION_TRIPLES
        rest = kept & fine[heads] & fine[tails] & common[codes]
        if (rest == kept).all():
            return kept
        kept = rest


def _decade(year: str) -> str:
    return f"decade:{year[:3]}0s"


def _attributes(years: list[str], genres: list[list[str]]) -> Modality:
    """Genres and decade of each film, multi-hot. A film without either lacks the modality."""
    films = [{*film, *([_decade(year)] if year else [])} for film, year in zip(genres, years, strict=True)]
    words = sorted(set().union(*films))
    values = np.array([[word in film for word in words] for film in films], np.float32)
    return Modality(values, values.max(axis=1) > 0)


def _text(titles: list[str]) -> Modality:
    """TF-IDF of the title's words and pairs of words, reduced by a truncated SVD, rows of length 1."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    titles = [_ARTICLE.sub(r"\2 \1\3", title) for title in titles]
    weights = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", ngram_range=(1, 2)).fit_transform(titles)
    values = TruncatedSVD(_TEXT_WIDTH, random_state=0).fit_transform(weights)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    values = np.divide(values, length, out=np.zeros_like(values), where=length > 0)
    values = np.round(values, 4)  # the last digits depend on the machine; without them the fingerprint does not
    return Modality(values.astype(np.float32), np.ones(len(titles), np.bool_))
