"""The native CPU kernels: one C++ library, called through XLA's foreign function interface.

It is loaded when an operation is first traced, never at import. Where it is absent or refused, `unavailable_reason`
tells why and the XLA path serves.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import jax

LIBRARY = Path(__file__).resolve().parent / "slif_native.so"
TARGETS = ("spmm", "sddmm", "gradients", "attention", "attention_backward", "topk")
_state: list[str | None] = []  # empty until the first try; then why loading failed, or None


def unavailable_reason() -> str | None:
    """Why the library cannot be used, or None where it can. Loads it at the first call."""
    if not _state:
        _state.append(_load())
    return _state[0]


def _load() -> str | None:
    if not LIBRARY.exists():
        return "the library was not built: no C++ compiler at installation (see BUILD.md)"
    try:
        library = ctypes.CDLL(str(LIBRARY))
        # Registration waits for the backends. One that JAX refuses then would break the start of the CPU backend
        # itself, so the backend is started first and a refusal is an exception here.
        jax.devices("cpu")
        for name in TARGETS:
            jax.ffi.register_ffi_target(
                f"slif_{name}", jax.ffi.pycapsule(getattr(library, f"slif_{name}")), platform="cpu"
            )
    except Exception as error:  # any failure means the XLA path
        return f"loading {LIBRARY.name} failed: {error}"
    return None


def isa() -> str:
    """The instruction set that the kernels chose: "baseline", "avx2" or "avx512"; "" where there is no library."""
    if unavailable_reason() is not None:
        return ""
    name = ctypes.CDLL(str(LIBRARY)).slif_isa
    name.restype = ctypes.c_char_p
    return name().decode()
