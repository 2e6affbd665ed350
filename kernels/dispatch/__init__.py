"""Chooses an implementation per operation and platform, and says why one is absent.

`TABLE` is the whole policy: the first name that can run is taken. With `implementation=None` the choice is made when
the program is lowered, so one traced program can be exported for several platforms.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from slif_jax.kernels import native

TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "cpu": dict.fromkeys(("spmm", "sddmm", "edge_attention", "topk"), ("native", "xla")),
    "cuda": dict.fromkeys(("spmm", "sddmm", "edge_attention", "topk"), ("xla",)),
    "tpu": {"spmm": ("pallas_tpu", "xla"), "sddmm": ("xla",), "edge_attention": ("xla",), "topk": ("xla",)},
}
OPS = tuple(TABLE["cpu"])
NAMES: dict[str, tuple[str, ...]] = {
    op: ("reference", "xla", "native", "pallas_tpu") if op == "spmm" else ("reference", "xla", "native") for op in OPS
}
# Part of the key of JAX's caches: what was compiled under one choice is never reused under another.
_preferred = jax.make_user_context(default_value=None)


def platform() -> str:
    """The platform that JAX uses here, in the table's words: "cpu", "cuda" (any GPU) or "tpu"."""
    name = jax.default_backend()
    return "cuda" if name in ("gpu", "cuda", "rocm") else name


def why_not(op: str, implementation: str, on: str | None = None) -> str | None:
    """Why `implementation` of `op` cannot run on a platform (None: this one), or None where it can."""
    on = platform() if on is None else on
    if op not in NAMES:
        return f"there is no operation of that name; there are {', '.join(OPS)}"
    if implementation not in NAMES[op]:
        return "there is no implementation of that name"
    if implementation == "native":
        return "it is for the CPU" if on != "cpu" else native.unavailable_reason()
    if implementation == "pallas_tpu" and on not in ("tpu", "cpu"):
        return "it is for TPUs (and runs, slowly, as an interpreter on the CPU)"
    return None


def is_supported(op: str, implementation: str, on: str | None = None) -> bool:
    """Whether `implementation` of `op` can run on a platform (None: this one)."""
    return why_not(op, implementation, on) is None


def default_order(op: str, on: str | None = None) -> tuple[str, ...]:
    """What `implementation=None` takes on a platform, best first, without those that cannot run there."""
    on = platform() if on is None else on
    return tuple(name for name in TABLE.get(on, TABLE["cuda"])[op] if is_supported(op, name, on))


@contextlib.contextmanager
def default_implementation(name: str | None) -> Iterator[None]:
    """Inside this context, operations traced with `implementation=None` use `name` where they have it.

    Args:
      name: an implementation; None or "auto" restores the table.

    Raises:
      ValueError: if no operation has an implementation of that name, or it cannot run here.
    """
    name = None if name == "auto" else name
    if name is not None:
        having = [op for op in OPS if name in NAMES[op]]
        resolve(having[0] if having else OPS[0], name)
    with _preferred(name):
        yield


def resolve(op: str, implementation: str | None) -> str | None:
    """The name to use: the one given, else that of `default_implementation`, else None, the table.

    Raises:
      ValueError: if a name was given that cannot run here; the text lists the ones that can.
    """
    if implementation is None:
        preferred = _preferred.value
        return preferred if preferred in NAMES[op] else None
    reason = why_not(op, implementation)
    if reason is None:
        return implementation
    known = implementation in NAMES[op]
    here = ", ".join(repr(name) for name in NAMES[op] if is_supported(op, name))
    reasons = [f"{name!r} is absent: {why}." for name in NAMES[op] if (why := why_not(op, name)) is not None]
    first = "Implementation {!r} of {} cannot run here." if known else "Unknown implementation {!r} for {}."
    raise ValueError(" ".join([first.format(implementation, op), f"Available here: {here}.", *reasons]))


def call(op: str, implementation: str | None, functions: Mapping[str, Callable[..., Any]], *args: Any) -> Any:
    """Calls the implementation of that name; None leaves the choice to the lowering.

    Args:
      op: the operation.
      implementation: a resolved name. One that this call cannot use (not in `functions`) counts as None.
      functions: the implementations that can serve this call.
      *args: arrays, or trees of arrays.

    Returns:
      What the implementation returns.
    """
    if implementation is not None and implementation in functions:
        return functions[implementation](*args)
    chosen = {on: next(name for name in default_order(op, on) if name in functions) for on in TABLE}
    default = chosen.pop("cuda")
    special = {on: functions[name] for on, name in chosen.items() if name != default}
    if not special:
        return functions[default](*args)
    return jax.lax.platform_dependent(*args, default=functions[default], **special)
