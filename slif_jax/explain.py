"""Why an item suits a user, read off the model: liked items near it, the triples it attends to, what each view adds."""

from typing import NamedTuple

import jax
import numpy as np

from slif_jax.data import Dataset
from slif_jax.kernels.layout import edges_of, layout_of
from slif_jax.recommend import TrainedModel, known_items
from slif_jax.rows import csr_rows
from slif_jax.similar import edge_lists


class Knowledge(NamedTuple):
    """The knowledge graph by item, with its attention."""

    indptr: np.ndarray
    """Edges `indptr[i]` to `indptr[i + 1]` belong to item i."""
    others: np.ndarray
    """`[E]` the entity at the other end."""
    relations: np.ndarray
    """`[E]`: r where the item is the head of the triple, r + R where it is the tail."""
    attention: np.ndarray
    """`[E]`, the mean of the hops; over an item's triples it sums to 1 less `correlation_share`."""
    correlation_share: np.ndarray
    """`[I]` attention that an item gives to its edges of the correlation graph."""


class Evidence(NamedTuple):
    """What explanations are read from, on the host; gathered once per model."""

    dataset: Dataset
    users: np.ndarray
    """`[U, D + r]` what scores are made of: `Encoded.ranked`."""
    items: np.ndarray
    vectors: np.ndarray
    """`[I, D]` final vectors of the items: the first columns of `items`."""
    contributions: dict[str, np.ndarray]
    """By view `[I, D]`, summing to `vectors`."""
    linear: dict[str, np.ndarray]
    """By linear model `[I, r]`: the further columns of `items`, in this order."""
    user_weights: dict[str, np.ndarray]
    """By view `[U]`, the attention of the fusion; the collaborative view has none."""
    item_weights: dict[str, np.ndarray]
    neighbors: np.ndarray
    """`[I, k]` the correlation graph: senders."""
    weights: np.ndarray
    """`[I, k]` their weights, 0 where there is no edge."""
    liked: tuple[np.ndarray, np.ndarray]
    """Training items of each user: bounds and items."""
    known: tuple[np.ndarray, np.ndarray]
    """Items of every split."""
    knowledge: Knowledge | None


class LikedItem(NamedTuple):
    """An item from the user's history that is near the explained one."""

    item: int
    weight: float
    """Weight of the edge, sum over paths of two edges, or cosine; see `Explanation.link`."""
    via: int | None
    """The item in the middle of the strongest path of two edges."""
    cosine: float
    """Of the final vectors."""


class Triple(NamedTuple):
    """A triple of the explained item."""

    relation: int
    entity: int
    item_is_head: bool
    attention: float
    shared: tuple[int, ...]
    """Liked items that have the same relation to the same entity."""


class View(NamedTuple):
    """A view of the item, 'collaborative', a source of side information, or a linear model."""

    name: str
    score: float
    """What it adds to the score; these sum to the score."""
    user_weight: float | None
    """Attention of the fusion, which sums to 1 over the sources; None for the collaborative view."""
    item_weight: float | None


class Explanation(NamedTuple):
    """Why `item` suits `user`."""

    user: int
    item: int
    score: float
    rank: int | None
    """Place among the items that the user has not seen; None if the user has seen it."""
    num_unseen: int
    num_liked: int
    link: str
    """How `liked` was found: 'correlation' (an edge of the correlation graph), 'two hops' along it, or 'cosine'."""
    liked: tuple[LikedItem, ...]
    triples: tuple[Triple, ...] | None
    """None without a knowledge graph."""
    num_triples: int
    correlation_attention: float
    views: tuple[View, ...]


def gather_evidence(trained: TrainedModel) -> Evidence:
    """Brings what explanations need to the host, the attention over the knowledge graph with it.

    Args:
      trained: from `recommend.load_trained`.

    Returns:
      `Evidence`.
    """
    dataset, encoded = trained.dataset, trained.encoded
    neighbors, weights = edge_lists(trained.correlation)
    if not trained.config.uses_correlation():
        weights = np.zeros_like(weights)
    users = np.arange(dataset.num_users)
    sides = trained.model.side_names  # the keys of `Views.sides` come out of jit sorted
    contributions = jax.jit(trained.model.contributions)(trained.params, encoded.items)
    scale = np.asarray(encoded.item_scale)[:, None]
    parts = {name: np.asarray(contributions[name]) * scale for name in ("collaborative", *sides)}
    return Evidence(
        dataset=dataset,
        users=np.asarray(encoded.ranked.users),
        items=np.asarray(encoded.ranked.items),
        vectors=np.asarray(encoded.final.items),
        contributions=parts,
        linear={name: np.asarray(model.items) for name, model in sorted(trained.graphs.linear.items())},
        user_weights=dict(zip(sides, np.asarray(encoded.user_weights).T, strict=True)),
        item_weights=dict(zip(sides, np.asarray(encoded.item_weights).T, strict=True)),
        neighbors=neighbors,
        weights=weights,
        liked=csr_rows(dataset.train, users, dataset.num_users),
        known=csr_rows(known_items(dataset), users, dataset.num_users),
        knowledge=_knowledge(trained) if trained.model.knowledge else None,
    )


def _knowledge(trained: TrainedModel) -> Knowledge:
    graph, num_items = trained.graphs.knowledge, trained.dataset.num_items
    assert graph is not None
    found = jax.jit(trained.model.knowledge_attention)(trained.params, trained.graphs, trained.correlation)
    indptr = np.asarray(layout_of(graph).indptr)[: num_items + 1]
    last = int(indptr[-1])
    share = np.zeros(num_items, np.float32)
    if found.correlation is not None:
        share = np.asarray(found.correlation).reshape(num_items, -1).sum(axis=1)
    return Knowledge(
        indptr=indptr,
        others=np.asarray(graph.senders)[:last],
        relations=np.asarray(edges_of(graph).relation)[:last],
        attention=np.asarray(found.triples)[:last],
        correlation_share=share,
    )


def explain(evidence: Evidence, user: int, item: int, *, num_liked: int = 5, num_triples: int = 5) -> Explanation:
    """Explains the score of one item for one user.

    Args:
      evidence: from `gather_evidence`.
      user: user index.
      item: item index; need not be among the best.
      num_liked: liked items at most.
      num_triples: triples at most.

    Returns:
      `Explanation`. Everything in it is read off the model: nothing is fitted to explain it.

    Raises:
      ValueError: if the user or the item is not of the data, or a number is negative.
    """
    for name, index, count in (("user", user, len(evidence.users)), ("item", item, len(evidence.items))):
        if not 0 <= index < count:
            raise ValueError(f"`{name}` must be in [0, {count}): got {index}.")
    if num_liked < 0 or num_triples < 0:
        raise ValueError(f"`num_liked` and `num_triples` must not be negative: got {num_liked} and {num_triples}.")
    scores, width = evidence.items @ evidence.users[user], evidence.vectors.shape[1]
    unseen = np.ones(len(scores), np.bool_)
    unseen[_row(evidence.known, user)] = False
    better = (scores > scores[item]) | ((scores == scores[item]) & (np.arange(len(scores)) < item))
    liked = _row(evidence.liked, user)
    liked = liked[liked != item]
    link, near = _near(evidence, item, liked, num_liked)
    triples, num_edges, share = None, 0, 0.0
    if evidence.knowledge is not None:
        triples = _triples(evidence, evidence.knowledge, item, liked, num_triples)
        num_edges = int(np.diff(evidence.knowledge.indptr)[item])
        share = float(evidence.knowledge.correlation_share[item])

    names, parts = (*evidence.contributions, *evidence.linear), [*evidence.contributions.values()]
    columns = [slice(width)] * len(parts)
    for vectors in evidence.linear.values():
        columns.append(slice(width, width + vectors.shape[1]))
        parts.append(vectors)
        width += vectors.shape[1]

    return Explanation(
        user=int(user),
        item=int(item),
        score=float(scores[item]),
        rank=1 + int(np.count_nonzero(better & unseen)) if unseen[item] else None,
        num_unseen=int(unseen.sum()),
        num_liked=len(liked),
        link=link,
        liked=near,
        triples=triples,
        num_triples=num_edges,
        correlation_attention=share,
        views=tuple(
            View(
                name=name,
                score=float(vectors[item] @ evidence.users[user, part]),
                user_weight=float(evidence.user_weights[name][user]) if name in evidence.user_weights else None,
                item_weight=float(evidence.item_weights[name][item]) if name in evidence.item_weights else None,
            )
            for name, vectors, part in zip(names, parts, columns, strict=True)
        ),
    )


def _row(csr: tuple[np.ndarray, np.ndarray], row: int) -> np.ndarray:
    return csr[1][csr[0][row] : csr[0][row + 1]]


def _near(evidence: Evidence, item: int, liked: np.ndarray, count: int) -> tuple[str, tuple[LikedItem, ...]]:
    """The nearest of `liked`: along edges of the correlation graph, else along two of them, else by cosine."""
    num_items, vectors = len(evidence.items), evidence.vectors
    norms = np.linalg.norm(vectors[liked], axis=1) * np.linalg.norm(vectors[item])
    cosines = vectors[liked] @ vectors[item] / np.where(norms > 0, norms, 1)
    via = np.full(num_items, -1)
    direct = np.zeros(num_items, np.float32)
    np.add.at(direct, evidence.neighbors[item], evidence.weights[item])
    link, weights = "correlation", direct[liked]
    if not (weights > 0).any():
        middle, first = evidence.neighbors[item], evidence.weights[item]
        paths = first[:, None] * evidence.weights[middle]
        ends, two, best = evidence.neighbors[middle], np.zeros(num_items, np.float32), np.zeros(num_items, np.float32)
        np.add.at(two, ends, paths)
        np.maximum.at(best, ends, paths)
        strongest = (paths > 0) & (paths == best[ends])
        via[ends[strongest]] = np.broadcast_to(middle[:, None], ends.shape)[strongest]
        link, weights = "two hops", two[liked]
    if not (weights > 0).any():
        link, weights = "cosine", cosines
    order = np.lexsort((liked, -cosines, -weights))[:count]
    order = order[weights[order] > 0] if link != "cosine" else order
    found = (
        LikedItem(
            item=int(liked[place]),
            weight=float(weights[place]),
            via=int(via[liked[place]]) if link == "two hops" else None,
            cosine=float(cosines[place]),
        )
        for place in order
    )
    return link, tuple(found)


def _triples(evidence: Evidence, knowledge: Knowledge, item: int, liked: np.ndarray, count: int) -> tuple[Triple, ...]:
    """The item's triples with the highest attention, and which liked items have the same."""
    num_relations = evidence.dataset.num_relations
    edges = np.arange(knowledge.indptr[item], knowledge.indptr[item + 1])
    edges = edges[np.lexsort((edges, -knowledge.attention[edges]))][:count]
    lengths = np.diff(knowledge.indptr)[liked]
    owners = np.repeat(liked, lengths)
    theirs = np.concatenate([np.arange(*knowledge.indptr[other : other + 2]) for other in liked] or [edges[:0]])
    found = []
    for edge in edges:
        relation, entity = knowledge.relations[edge], knowledge.others[edge]
        same = (knowledge.relations[theirs] == relation) & (knowledge.others[theirs] == entity)
        found.append(
            Triple(
                relation=int(relation % num_relations),
                entity=int(entity),
                item_is_head=bool(relation < num_relations),
                attention=float(knowledge.attention[edge]),
                shared=tuple(int(owner) for owner in owners[same]),
            )
        )
    return tuple(found)
