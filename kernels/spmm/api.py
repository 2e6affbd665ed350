"""spmm and sddmm: entry checks, the choice of implementation, and the derivatives, written once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Float

from slif_jax.kernels import dispatch
from slif_jax.kernels.layout import Layout, Structure, edges_of, structure_of
from slif_jax.kernels.shards import match_shards
from slif_jax.kernels.spmm import native, pallas_tpu, reference, xla


def spmm(
    graph: jraph.GraphsTuple,
    x: Float[Array, "S D"],
    weight: Float[Array, " E"] | None = None,
    *,
    num_receivers: int | None = None,
    implementation: str | None = None,
) -> Float[Array, "R D"]:
    """Sums neighbours' rows: y_r = sum over edges e into r of w_e x_{s(e)}.

    R receivers, S senders, E edge slots, D columns. Differentiable in `x` and the weights, to any order.

    Args:
      graph: edges sorted by receiver (`build_graph`, `fixed_degree_graph`); padding edges are not read.
      x: `[S, D]` senders' rows, float32 or bfloat16.
      weight: `[E]` float32, in receiver order. None takes `graph.edges.weight`, or 1 if the graph has none.
      num_receivers: R, only for graphs without a layout; None takes S.
      implementation: see `slif_jax.ops`. None picks the fastest that works.

    Returns:
      `[R, D]` in `x.dtype`; sums are taken in float32. A receiver without edges gets 0.

    Raises:
      ValueError: if shapes do not fit, or a named implementation cannot run.
      TypeError: if `x` is neither float32 nor bfloat16.

    Example:
      >>> import jax.numpy as jnp
      >>> from slif_jax import ops
      >>> graph = ops.build_graph([0, 1], [1, 1], [1.0, 2.0], num_senders=2, num_receivers=2)
      >>> ops.spmm(graph, jnp.array([[1.0], [10.0]])).tolist()
      [[0.0], [21.0]]
    """
    _check_rows("x", x)
    name = dispatch.resolve("spmm", implementation)
    if isinstance(graph.globals, Layout):
        num_receivers = graph.globals.indptr.shape[0] - 1
    elif num_receivers is None:
        num_receivers = x.shape[0]
    structure = structure_of(graph, num_receivers=num_receivers, num_senders=x.shape[0])
    if implementation == "pallas_tpu" and structure.ell is None:
        raise ValueError("'pallas_tpu' needs a graph with slots: use build_graph(..., ell=True).")
    if weight is None:
        weight = edges_of(graph).weight
    if weight is None:
        weight = jnp.ones((structure.num_edges,), jnp.float32)
    _check_weight(weight, structure.num_edges)
    return _jit_spmm(name, *match_shards(structure, weight.astype(jnp.float32), x))


def sddmm(
    graph: jraph.GraphsTuple,
    y: Float[Array, "R D"],
    x: Float[Array, "S D"],
    *,
    implementation: str | None = None,
) -> Float[Array, " E"]:
    """Inner products along edges: s_e = <y_{r(e)}, x_{s(e)}>.

    R receivers, S senders, E edge slots, D columns. Differentiable in `y` and `x`, to any order.

    Args:
      graph: edges sorted by receiver.
      y: `[R, D]` receivers' rows, float32 or bfloat16.
      x: `[S, D]` senders' rows, of the same dtype.
      implementation: see `slif_jax.ops`. None picks the fastest that works.

    Returns:
      `[E]` float32 in receiver order, 0 on padding edges.

    Raises:
      ValueError: if shapes do not fit, or a named implementation cannot run.
      TypeError: if the dtypes differ, or are neither float32 nor bfloat16.
    """
    _check_rows("y", y)
    _check_rows("x", x)
    if y.dtype != x.dtype or y.shape[1] != x.shape[1]:
        raise (TypeError if y.dtype != x.dtype else ValueError)(
            f"`y` and `x` must have the same dtype and width: got {y.dtype}{y.shape} and {x.dtype}{x.shape}."
        )
    name = dispatch.resolve("sddmm", implementation)
    structure = structure_of(graph, num_receivers=y.shape[0], num_senders=x.shape[0])
    return _jit_sddmm(name, *match_shards(structure, y, x))


def _check_rows(name: str, value: Array) -> None:
    if value.ndim != 2:
        raise ValueError(f"`{name}` must be a matrix of rows: got shape {value.shape}.")
    if value.dtype not in (jnp.float32, jnp.bfloat16):
        raise TypeError(f"`{name}` must be float32 or bfloat16: got {value.dtype}. Cast it before the call.")


def _check_weight(weight: Array, num_edges: int) -> None:
    if weight.shape != (num_edges,):
        raise ValueError(f"`weight` must have one entry per edge slot: got shape {weight.shape} for {num_edges}.")


def _spmm_functions(transposed: bool) -> dict[str, Callable[..., Any]]:
    return {
        name: functools.partial(module.spmm, transposed=transposed)
        for name, module in (("reference", reference), ("xla", xla), ("native", native))
    }


_SPMM = {transposed: _spmm_functions(transposed) for transposed in (False, True)}
_SDDMM = {"reference": reference.sddmm, "xla": xla.sddmm, "native": native.sddmm}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _spmm(name: str | None, transposed: bool, structure: Structure, weight: Array, x: Array) -> Array:
    functions = _SPMM[transposed]
    if not transposed and structure.ell is not None and (name or pallas_tpu.has_fixed_degree(structure)):
        functions = functions | {"pallas_tpu": pallas_tpu.spmm}
    return dispatch.call("spmm", name, functions, structure, weight, x)


def _spmm_fwd(name, transposed, structure, weight, x):
    structure = jax.tree.map(lambda leaf: leaf.value, structure)
    y = _spmm(name, transposed, structure, weight.value, x.value)
    # x is kept only for the weights' derivative, the weights only for that of x.
    return y, (structure, weight.value if x.perturbed else None, x.value if weight.perturbed else None)


def _spmm_bwd(name, transposed, residuals, ct):
    structure, weight, x = residuals
    if isinstance(ct, jax.custom_derivatives.SymbolicZero):
        zero: Any = ct
        ct = jnp.zeros(zero.shape, zero.dtype)
    if weight is not None and x is not None and not transposed and x.dtype == jnp.float32:
        grads: Any = _gradients(name, structure, weight, x, ct)
        return None, grads[0], grads[1]
    dw, dx = None, None  # None stands for 0
    if x is not None:
        y, z = (x, ct) if transposed else (ct, x)
        dw = _sddmm(name, structure, y, z)
    if weight is not None:
        dx = _spmm(name, not transposed, structure, weight, ct)
    return None, dw, dx


_spmm.defvjp(_spmm_fwd, _spmm_bwd, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sddmm(name: str | None, structure: Structure, y: Array, x: Array) -> Array:
    return dispatch.call("sddmm", name, _SDDMM, structure, y, x)


def _sddmm_fwd(name, structure, y, x):
    return _sddmm(name, structure, y, x), (structure, y, x)


def _sddmm_bwd(name, residuals, ct):
    structure, y, x = residuals
    return None, _spmm(name, False, structure, ct, x), _spmm(name, True, structure, ct, y)


_sddmm.defvjp(_sddmm_fwd, _sddmm_bwd)


def _two_gradients(name: str | None, structure: Structure, weight: Array, x: Array, ct: Array) -> tuple[Array, Array]:
    return _sddmm(name, structure, ct, x), _spmm(name, True, structure, weight, ct)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradients(name: str | None, structure: Structure, weight: Array, x: Array, ct: Array) -> tuple[Array, Array]:
    """The cotangents of the weights and of x; one pass where an implementation has one."""
    functions = {
        "reference": functools.partial(_two_gradients, "reference"),
        "xla": functools.partial(_two_gradients, "xla"),
        "native": native.gradients,
    }
    return dispatch.call("spmm", name, functions, structure, weight, x, ct)


def _gradients_fwd(name, structure, weight, x, ct):
    return _gradients(name, structure, weight, x, ct), (structure, weight, x, ct)


def _gradients_bwd(name, residuals, cts):
    structure, weight, x, ct = residuals
    _, vjp = jax.vjp(functools.partial(_two_gradients, name, structure), weight, x, ct)
    dw, dx, dct = vjp(cts)
    return None, dw, dx, dct


_gradients.defvjp(_gradients_fwd, _gradients_bwd)


@functools.partial(jax.jit, static_argnums=0)
def _jit_spmm(name, structure, weight, x):
    if name == "reference":
        return reference.spmm(structure, weight, x)
    return _spmm(name, False, structure, weight, x)


@functools.partial(jax.jit, static_argnums=0)
def _jit_sddmm(name, structure, y, x):
    if name == "reference":
        return reference.sddmm(structure, y, x)
    return _sddmm(name, structure, y, x)
