"""Evaluation protocols written once more from their rules: plain loops, one user at a time, nothing of slif_jax.

Every function takes `scores` (a list of item scores per user) and the rows (user, item) of train, valid and test, and
gives the metrics of each evaluated user by name, and what the program of that name would report.
"""

import math

Rows = list[tuple[int, int]]
PerUser = dict[int, dict[str, float]]


def _mean(per_user: PerUser, digits: int | None) -> dict[str, float]:
    names = next(iter(per_user.values()))
    means = {name: sum(values[name] for values in per_user.values()) / len(per_user) for name in names}
    return {name: round(value, digits) if digits else value for name, value in means.items()}


def _items_of(rows: Rows, user: int) -> list[int]:
    return [item for row_user, item in rows if row_user == user]


def _order(scores: list[float]) -> list[int]:
    """All items, best first; of equal scores the lower id."""
    return sorted(range(len(scores)), key=lambda item: (-scores[item], item))


def _discounted(hits: list[int]) -> float:
    return sum(hit / math.log2(rank + 1) for rank, hit in enumerate(hits, start=1))


def _shared_metrics(hits: list[int], relevant: int, k: int) -> dict[str, float]:
    """Recall, precision, NDCG over min(R, K), and MAP, as MMRec and RecBole define them."""
    found, precisions = 0, 0.0
    for rank, hit in enumerate(hits[:k], start=1):
        found += hit
        precisions += hit * found / rank
    ideal = _discounted([1] * min(relevant, k))
    return {
        f"recall@{k}": found / relevant,
        f"precision@{k}": found / k,
        f"ndcg@{k}": _discounted(hits[:k]) / ideal,
        f"map@{k}": precisions / min(relevant, k),
    }


def _first_hit(hits: list[int], k: int) -> dict[str, float]:
    ranks = [rank for rank, hit in enumerate(hits[:k], start=1) if hit]
    return {f"hit@{k}": float(bool(ranks)), f"mrr@{k}": 1 / ranks[0] if ranks else 0.0}


def mmrec(scores, train: Rows, valid: Rows, test: Rows, part: str, cut_offs) -> tuple[PerUser, dict[str, float]]:
    """Train is masked by a score of -1e10, also at test; lists of 50; repeated rows count in R; rounded to 4 digits."""
    rows = {"valid": valid, "test": test}[part]
    per_user: PerUser = {}
    for user in sorted({user for user, _ in rows}):
        history = _items_of(train, user)
        if not history:
            continue
        relevant = _items_of(rows, user)
        masked = [-1e10 if item in history else score for item, score in enumerate(scores[user])]
        hits = [int(item in relevant) for item in _order(masked)[:50]]
        per_user[user] = {}
        for k in cut_offs:
            per_user[user] |= _shared_metrics(hits, len(relevant), k)
    return per_user, _mean(per_user, 4)


def recbole(scores, train: Rows, valid: Rows, test: Rows, part: str, cut_offs) -> tuple[PerUser, dict[str, float]]:
    """History minus the positives of the part is masked by -inf; every user of the part counts; rounded to 4 digits."""
    rows, known = (valid, train) if part == "valid" else (test, train + valid)
    per_user: PerUser = {}
    for user in sorted({user for user, _ in rows}):
        relevant = set(_items_of(rows, user))
        used = set(_items_of(known, user)) - relevant
        open_items = [item for item in _order(scores[user]) if item not in used]
        hits = [int(item in relevant) for item in open_items[: max(cut_offs)]]
        per_user[user] = {}
        for k in cut_offs:
            per_user[user] |= _shared_metrics(hits, len(relevant), k) | _first_hit(hits, k)
    return per_user, _mean(per_user, 4)


def kgat(scores, train: Rows, valid: Rows, test: Rows, part: str, cut_offs) -> tuple[PerUser, dict[str, float]]:
    """Train is left out; the ideal of NDCG sorts the hits of the first 100, so a list is compared with itself."""
    rows = {"valid": valid, "test": test}[part]
    per_user: PerUser = {}
    for user in sorted({user for user, _ in rows}):
        relevant, history = set(_items_of(rows, user)), set(_items_of(train, user))
        hits = [int(item in relevant) for item in _order(scores[user]) if item not in history][:100]
        best = sorted(hits, reverse=True)
        per_user[user] = {}
        for k in cut_offs:
            ideal = _discounted(best[:k])
            per_user[user] |= {
                f"recall@{k}": sum(hits[:k]) / len(relevant),
                f"precision@{k}": sum(hits[:k]) / k,
                f"ndcg@{k}": _discounted(hits[:k]) / ideal if ideal else 0.0,
                f"hit@{k}": float(sum(hits[:k]) > 0),
            }
    return per_user, _mean(per_user, None)


def strict(scores, train: Rows, valid: Rows, test: Rows, part: str, cut_offs) -> tuple[PerUser, dict[str, float]]:
    """Train, and validation at test, are left out; means over users with training rows; nothing is rounded."""
    rows, known = (valid, train) if part == "valid" else (test, train + valid)
    per_user: PerUser = {}
    for user in sorted({user for user, _ in rows}):
        if not _items_of(train, user):
            continue
        relevant, seen = set(_items_of(rows, user)), set(_items_of(known, user))
        hits = [int(item in relevant) for item in _order(scores[user]) if item not in seen]
        per_user[user] = {}
        for k in cut_offs:
            per_user[user] |= _shared_metrics(hits, len(relevant), k) | _first_hit(hits, k)
    return per_user, _mean(per_user, None)


RULES = {"strict": strict, "mmrec": mmrec, "recbole": recbole, "kgat": kgat}
