"""Explanations with the ids and names of the source: as text to read, and as an object for JSON."""

from typing import Any

from slif_jax.data import Dataset
from slif_jax.explain import Explanation

_LINKS = {
    "correlation": "edges of the correlation graph, weight",
    "two hops": "no edge of the correlation graph leads to one, so by paths of two edges, weight",
    "cosine": "the correlation graph leads to none, so by cosine of the final vectors",
}
_NAMED = 3


def as_record(explanation: Explanation, dataset: Dataset) -> dict[str, Any]:
    """An explanation in JSON types.

    Args:
      explanation: from `explain`.
      dataset: its data.

    Returns:
      Nested dictionaries; users, items, entities and relations by their original ids and names.
    """

    def item(index: int) -> dict[str, Any]:
        title = _title(dataset, index)
        return {"item": str(dataset.item_ids[index])} | ({"title": title} if title else {})

    return {
        "user": str(dataset.user_ids[explanation.user]),
        **item(explanation.item),
        "score": explanation.score,
        "rank": explanation.rank,
        "unseen_items": explanation.num_unseen,
        "views": [view._asdict() for view in explanation.views],
        "liked_items": explanation.num_liked,
        "link": explanation.link,
        "liked": [
            item(near.item)
            | {"weight": near.weight, "cosine": near.cosine}
            | ({"via": item(near.via)} if near.via is not None else {})
            for near in explanation.liked
        ],
        "triples_of_item": explanation.num_triples,
        "attention_to_correlation": explanation.correlation_attention,
        "triples": None
        if explanation.triples is None
        else [
            {
                "relation": relation_name(dataset, triple.relation),
                "entity": entity_name(dataset, triple.entity),
                "item_is": "head" if triple.item_is_head else "tail",
                "attention": triple.attention,
                "liked_items_that_share_it": [item(other) for other in triple.shared],
            }
            for triple in explanation.triples
        ],
    }


def as_text(explanation: Explanation, dataset: Dataset) -> str:
    """An explanation to read.

    Args:
      explanation: from `explain`.
      dataset: its data.

    Returns:
      Lines, the last one with a line end. What would steer a terminal, or begin a line, is shown as '?'.
    """
    place = "The user has seen it"
    if explanation.rank is not None:
        place = f"Place {explanation.rank:,} of the {explanation.num_unseen:,} items that the user has not seen"
    lines = [
        f"User {dataset.user_ids[explanation.user]}, item {_named(dataset, explanation.item)}",
        f"{place}; score {explanation.score:.3f}, of which",
    ]
    for view in explanation.views:
        weights = ""
        if view.item_weight is not None:
            weights = f"  (fusion weight: item {view.item_weight:.1%}, user {view.user_weight:.1%})"
        lines.append(f"  {view.score:8.3f}  {view.name}{weights}")
    lines += _liked_lines(explanation, dataset)
    lines += _triple_lines(explanation, dataset)
    return "".join("".join(letter if letter.isprintable() else "?" for letter in line) + "\n" for line in lines)


def _liked_lines(explanation: Explanation, dataset: Dataset) -> list[str]:
    if not explanation.num_liked:
        return ["Liked items: the user has none in the training part"]
    lines = [f"Nearest of the user's {explanation.num_liked:,} liked items ({_LINKS[explanation.link]})"]
    for near in explanation.liked:
        via = f", by way of {_named(dataset, near.via)}" if near.via is not None else ""
        lines.append(f"  {near.weight:8.4f}  {_named(dataset, near.item)}{via}")
    return lines


def _triple_lines(explanation: Explanation, dataset: Dataset) -> list[str]:
    if explanation.triples is None:
        return ["Triples: the model uses no knowledge graph"]
    if not explanation.triples:
        return ["Triples: the knowledge graph has none for this item"]
    share = explanation.correlation_attention
    lines = [
        f"Most attended of its {explanation.num_triples:,} triples"
        + (f" (attention; {share:.1%} goes to the correlation graph)" if share else " (attention)")
    ]
    for triple in explanation.triples:
        arrow = "->" if triple.item_is_head else "<-"
        relation, entity = relation_name(dataset, triple.relation), entity_name(dataset, triple.entity)
        lines.append(f"  {triple.attention:8.4f}  {relation} {arrow} {entity}{_sharers(triple.shared, dataset)}")
    return lines


def _sharers(shared: tuple[int, ...], dataset: Dataset) -> str:
    if not shared:
        return ""
    names = ", ".join(_title(dataset, other) or str(dataset.item_ids[other]) for other in shared[:_NAMED])
    more = f" and {len(shared) - _NAMED:,} more" if len(shared) > _NAMED else ""
    return f", as liked {names}{more}"


def relation_name(dataset: Dataset, relation: int) -> str:
    """A relation's name, or 'relation' and its number."""
    name = "" if dataset.relation_names is None else str(dataset.relation_names[relation])
    return name or f"relation {relation}"


def entity_name(dataset: Dataset, entity: int) -> str:
    """The item that an entity is, else its name, else 'entity' and its number."""
    if entity < dataset.num_items:
        return f"item {_named(dataset, entity)}"
    name = "" if dataset.entity_names is None else str(dataset.entity_names[entity])
    return " ".join(name.split()) or f"entity {entity}"


def _title(dataset: Dataset, item: int) -> str:
    return "" if dataset.item_titles is None else " ".join(str(dataset.item_titles[item]).split())


def _named(dataset: Dataset, item: int) -> str:
    """An item's id and title."""
    title = _title(dataset, item)
    return f"{dataset.item_ids[item]}" + (f": {title}" if title else "")
