"""Anybody's score function under named protocols: two baselines in NumPy, ranked and measured by the same rules.

    python examples/evaluate_your_scores.py

`evaluate.evaluate_scores` takes a function from user indices to a row of scores each. What is masked, what counts as a
hit and whom the means are over comes from the data and the protocol.
"""

from collections.abc import Callable

import numpy as np

from slif_jax import data, evaluate, groups

PROTOCOLS = ("strict", "mmrec", "recbole", "kgat")


def main() -> dict[str, dict[str, float]]:
    """Prints recall and NDCG of both baselines; gives the means by 'baseline, protocol'."""
    dataset = data.load("synthetic:users=300,items=200,seed=0")
    history = np.zeros((dataset.num_users, dataset.num_items), np.float32)
    history[dataset.train[:, 0], dataset.train[:, 1]] = 1.0
    unit = history / np.maximum(np.linalg.norm(history, axis=0), 1.0)
    popularity, cosine = history.sum(axis=0), unit.T @ unit
    baselines: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "popularity": lambda users: np.tile(popularity, (len(users), 1)),
        "item cosine": lambda users: history[users] @ cosine,
    }
    means: dict[str, dict[str, float]] = {}
    for name, score in baselines.items():
        for protocol in PROTOCOLS:
            found = evaluate.evaluate_scores(score, dataset, "test", protocol=protocol, topk=(10, 20))
            means[f"{name}, {protocol}"] = now = found.means()
            print(f"{name:12} {protocol:8} recall@20 {now['recall@20']:.4f}  ndcg@20 {now['ndcg@20']:.4f}")
    strict = evaluate.evaluate_scores(baselines["item cosine"], dataset, "test")
    print("item cosine, strict, by training interactions:")
    for interactions, group in groups.group_results(strict, 3)["activity"].items():
        low, high = group["interval"]["recall@20"]
        print(f"  {interactions:10} {group['users']:4} users  recall@20 {low:.3f} to {high:.3f} (95 %)")
    return means


if __name__ == "__main__":
    main()
