"""What the tests of the operations share."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax.kernels import dispatch

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
BFLOAT16_SPECS = ("empty_rows_padded", "wide", "self", "list")  # the others would tell nothing new


def backends(op: str) -> list[str]:
    """The implementations that can run here, less the reference, and None, the default."""
    return [name for name in dispatch.NAMES[op] if name != "reference" and dispatch.is_supported(op, name)]


def cases(op: str, specs: dict[str, Any]) -> list[Any]:
    """Every backend x spec x dtype."""
    return [
        pytest.param(name, spec, dtype, id=f"{name}-{spec}-{dtype}")
        for name in backends(op)
        for spec in specs
        for dtype in DTYPES
        if dtype == "float32" or spec in BFLOAT16_SPECS
    ]


def assert_close(got: Any, want: Any, dtype: str = "float32") -> None:
    """Compares trees leaf by leaf: to the rounding of the dtype, relative to the largest entry; inf and NaN exactly."""
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    got_leaves, want_leaves = jax.tree.leaves(got), jax.tree.leaves(want)
    assert len(got_leaves) == len(want_leaves)
    for a, b in zip(got_leaves, want_leaves, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        left, right = (np.asarray(part).astype(np.float32) for part in (a, b))
        finite = np.abs(right[np.isfinite(right)]).max(initial=1.0)
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance * finite)


def unchecked(function: Any) -> Any:
    """The function without the type checks that the tests put around it, to see its own errors."""
    return inspect.unwrap(function)


def needs_devices(count: int) -> None:
    """Skips where the virtual devices of tests/conftest.py are missing."""
    if jax.device_count() < count:
        pytest.skip(f"needs {count} devices: set XLA_FLAGS=--xla_force_host_platform_device_count={count}")
