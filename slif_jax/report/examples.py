"""A few users on a page: what they liked, what they are recommended, and why."""

from pathlib import Path

import numpy as np

from slif_jax.data import Dataset
from slif_jax.explain import Evidence, Explanation, explain, gather_evidence
from slif_jax.explain_text import entity_name, relation_name
from slif_jax.recommend import load_trained, top_n
from slif_jax.report.html import Html, join, table, tag

_HISTORY, _TOP = 12, 8


def examples_section(workdir: Path, *, data_dir: str | None, num_users: int) -> Html:
    """Users of low, middle and high activity, from the train profile, so that hits in test can be seen.

    Args:
      workdir: folder of a run with its checkpoints.
      data_dir: where fetched data sets are kept.
      num_users: how many.

    Returns:
      Markup.
    """
    trained = load_trained(workdir, data_dir=data_dir)
    dataset = trained.dataset
    users = example_users(dataset, num_users)
    evidence = gather_evidence(trained)
    seen = np.concatenate([dataset.train, dataset.valid])
    parts: list[Html] = []
    for block in top_n(trained.encoded, dataset, users, n=_TOP, seen=seen):
        for user, items, scores in zip(block.users, block.items, block.scores, strict=True):
            parts.append(_user(evidence, int(user), items[items >= 0], scores))
    intro = (
        f"{len(users)} users between the least and the most active ones with something in test. Items of train and "
        "validation are left out, so that an item of test can be hit. The reasons are read off the model: items that "
        "the user liked and that are near in the correlation graph, the triple with the highest attention, and what "
        "each view adds to the score."
    )
    return join([tag("p", intro), *parts])


def example_users(dataset: Dataset, count: int) -> np.ndarray:
    """Evaluated users at even steps of activity.

    Args:
      dataset: the data.
      count: how many at most.

    Returns:
      `[m]` ascending user indices.
    """
    history = np.bincount(dataset.train[:, 0], minlength=dataset.num_users)
    users = np.unique(dataset.test[:, 0])
    users = users[history[users] > 0]
    order = users[np.argsort(history[users], kind="stable")]
    places = np.linspace(0, len(order) - 1, count + 2)[1:-1].round().astype(int) if len(order) else []
    return np.unique(order[places])


def _user(evidence: Evidence, user: int, items: np.ndarray, scores: np.ndarray) -> Html:
    dataset = evidence.dataset
    bounds, liked_items = evidence.liked
    liked = liked_items[bounds[user] : bounds[user + 1]]
    relevant = set(dataset.test[dataset.test[:, 0] == user, 1].tolist())
    hits = [item for item in items.tolist() if item in relevant]
    shown = [item_name(dataset, int(item)) for item in liked[np.linspace(0, len(liked) - 1, _HISTORY).astype(int)]]
    shown = list(dict.fromkeys(shown))
    rest = f", and {len(liked) - len(shown):,} more" if len(liked) > len(shown) else ""
    rows = []
    for place, (item, score) in enumerate(zip(items.tolist(), scores.tolist(), strict=False), start=1):
        found = tag("span", "hit", class_="hit") if item in relevant else Html("")
        why = reasons(dataset, explain(evidence, user, item, num_liked=2, num_triples=1))
        rows.append([item_name(dataset, item), str(place), f"{score:.2f}", found, join(why, Html("<br>"))])
    caption = f"Recommended: {len(hits)} of the first {len(rows)} are among the user's {len(relevant)} items of test."
    columns = ("item", "rank", "score", "in test", "why")
    return tag(
        "section",
        tag("h3", f"User {dataset.user_ids[user]}"),
        tag("p", tag("b", f"Liked ({len(liked):,} in train): "), "; ".join(shown) + rest + "."),
        table(caption, columns, rows, texts=(0, 3, 4)),
    )


def reasons(dataset: Dataset, explanation: Explanation) -> list[str]:
    """One line for each kind of reason there is.

    Args:
      dataset: for titles and names.
      explanation: of one item.

    Returns:
      Lines of text.
    """
    lines = []
    if explanation.liked:
        how = {"correlation": "correlation graph", "two hops": "correlation graph, two hops", "cosine": "final vectors"}
        near = ", ".join(item_name(dataset, liked.item) for liked in explanation.liked)
        lines.append(f"near {near} ({how[explanation.link]})")
    if explanation.triples:
        triple = explanation.triples[0]
        relation, entity = relation_name(dataset, triple.relation), entity_name(dataset, triple.entity)
        fact = f"{relation}: {entity}" if triple.item_is_head else f"{relation} of {entity}"
        shared = f", as {len(triple.shared)} liked" if triple.shared else ""
        lines.append(f"{fact} (attention {triple.attention:.0%}{shared})")
    shares = [f"{view.name} {view.score:+.2f}" for view in explanation.views if abs(view.score) >= 0.005]
    lines.append("score: " + ", ".join(shares))
    return lines


def item_name(dataset: Dataset, item: int) -> str:
    """The title, or the id of the source."""
    title = "" if dataset.item_titles is None else " ".join(str(dataset.item_titles[item]).split())
    return title or str(dataset.item_ids[item])
