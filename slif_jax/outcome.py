"""What a training has come to: the fields of `result.json`, and the same in words."""

import dataclasses
import math
from typing import Any

from slif_jax.checkpoint import Progress
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.graphs import missing_features
from slif_jax.workdir import peak_memory_bytes


def result_of(
    config: Config,
    dataset: Dataset,
    status: Progress,
    *,
    linear_weights: dict[str, float],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """What `result.json` holds before test is evaluated.

    Args:
      config: what was trained.
      dataset: its data.
      status: of the best epoch.
      linear_weights: what each linear model weighs at that epoch.
      seconds: by phase.

    Returns:
      JSON types.
    """
    rules, given, weights = config.rules(), config.linear_weights(), linear_weights.items()
    return {
        "dataset": dataset.name,
        "protocol": rules.label(),
        "rules": dataclasses.asdict(rules),
        "seed": config.seed,
        "missing_features": {"policy": config.missing_features, "items": missing_features(dataset, config)},
        "data_fingerprint": dataset.fingerprint,
        "split_fingerprint": dataset.split_fingerprint,
        "best_epoch": status.best_epoch,
        "epochs": status.epoch,
        "stopped_early": status.evaluations_since_best >= config.patience,
        "selected_on": rules.select_part,
        "linear_weights": {name: float(f"{value:.6g}") for name, value in weights},
        "tuned_linear_weights": any(not math.isclose(value, given[name], rel_tol=1e-5) for name, value in weights),
        "selected_value": status.best_value if status.best_metrics else None,
        "valid": status.best_metrics if rules.select_part == "valid" else {},
        "test": {},
        "test_users": 0,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_bytes": peak_memory_bytes(),
    }


def weights_text(result: dict[str, Any]) -> str:
    """What the linear models weigh, in a sentence."""
    weights = ", ".join(f"{name} {value:.3g}" for name, value in result["linear_weights"].items())
    tuned = ", tuned on validation" if result.get("tuned_linear_weights") else ", as given"
    return f"Linear models beside the vectors weigh: {weights}{tuned}."


def describe_result(result: dict[str, Any]) -> str:
    """Lines for people: what was reached, on what, by which rules, in which time."""
    seconds = result["seconds"]
    scores = ", ".join(
        f"{name} {value:.4f}"
        for name, value in result["test"].items()
        if name.startswith(("recall", "ndcg")) and value is not None
    )
    if result["selected_on"] == "test":
        chosen = f"selected on test, as protocol {result['rules']['name']} does: its numbers are optimistic"
    else:
        chosen = "chosen on validation" if result["valid"] else "the last one: there are no validation data"
    test = f"Test ({result['protocol']}, {result['test_users']} users): {scores}" if scores else "Test: not evaluated."
    if result["test"] and not scores:
        test = "Test: no user of the protocol has an item in it, so nothing was measured."
    rising = result["valid"] and result["best_epoch"] == result["epochs"] and not result["stopped_early"]
    more = "\nThe last epoch is the best: the same command with more --epochs goes on from there." if rising else ""
    beside = f"{weights_text(result)}\n" if result.get("linear_weights") else ""
    return (
        f"Best epoch {result['best_epoch']} of {result['epochs']}, {chosen}.{more}\n"
        f"{test}\n"
        f"{beside}"
        f"Split {result['split_fingerprint'][:16]}, data {result['data_fingerprint'][:16]}.\n"
        f"Seconds: {', '.join(f'{name} {value:.1f}' for name, value in seconds.items())}; "
        f"peak memory {result['peak_memory_bytes'] / 2**20:.0f} MiB."
    )
