"""Arguments on which every implementation of topk is tested."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slif_jax.kernels.topk.types import Exclusions


class TopkSpec(NamedTuple):
    """Sizes; `exclude` is None, "self" or "list"; `integers` makes many ties."""

    num_queries: int
    num_keys: int
    columns: int
    k: int
    exclude: str | None = None
    limit: int | None = None
    row_offset: int = 0
    integers: bool = False


ARG_SPECS = {
    "plain": TopkSpec(9, 40, 16, 5),
    "self": TopkSpec(50, 50, 63, 7, exclude="self"),
    "self_block": TopkSpec(8, 50, 64, 3, exclude="self", row_offset=20),
    "list": TopkSpec(30, 120, 64, 10, exclude="list"),
    "ties": TopkSpec(12, 130, 4, 20, integers=True),
    "ties_self": TopkSpec(130, 130, 4, 9, exclude="self", integers=True),
    "k_above_candidates": TopkSpec(5, 6, 200, 9, exclude="list"),
    "limit": TopkSpec(7, 100, 128, 4, limit=13),
    "one_self": TopkSpec(1, 1, 1, 2, exclude="self"),
}


def make_args(name: str, dtype: Any, seed: int = 0) -> tuple[tuple[jax.Array, jax.Array, int], dict[str, Any]]:
    """Positional and named arguments of `topk`. Integers keep every score exact, so that ties are ties everywhere."""
    spec = ARG_SPECS[name]
    rng = np.random.default_rng(seed)
    sizes = ((spec.num_queries, spec.columns), (spec.num_keys, spec.columns))
    draw = (lambda size: rng.integers(-2, 3, size)) if spec.integers else (lambda size: rng.normal(size=size))
    queries, keys = (jnp.asarray(draw(size).astype(dtype)) for size in sizes)
    options: dict[str, Any] = {"exclude": spec.exclude, "row_offset": spec.row_offset, "num_keys": spec.limit}
    if spec.exclude == "self" and spec.num_queries == spec.num_keys:
        queries = keys
    if spec.exclude == "list":
        rows = [np.flatnonzero(rng.random(spec.num_keys) < 0.4) for _ in range(spec.num_queries)]
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        options["exclude"] = Exclusions(
            jnp.asarray(starts.astype(np.int32)), jnp.asarray(np.concatenate(rows).astype(np.int32))
        )
    return (queries, keys, spec.k), options
