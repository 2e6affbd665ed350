"""Arguments on which every implementation of spmm and sddmm is tested."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slif_jax.kernels.layout.arg_specs import ARG_SPECS, make_graph

__all__ = ["ARG_SPECS", "make_args"]


def make_args(name: str, dtype: Any, seed: int = 0) -> tuple[Any, jax.Array, jax.Array]:
    """A graph, receivers' rows y and senders' rows x."""
    spec = ARG_SPECS[name]
    rng = np.random.default_rng(seed + 1)
    y, x = (rng.normal(size=(rows, spec.columns)) for rows in (spec.num_receivers, spec.num_senders))
    return make_graph(spec, seed), jnp.asarray(y.astype(dtype)), jnp.asarray(x.astype(dtype))
