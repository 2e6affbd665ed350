"""Edge attention: entry checks, the choice of implementation, and the derivative, written once."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Float

from slif_jax.kernels import dispatch
from slif_jax.kernels.edge_attention import native, reference, xla
from slif_jax.kernels.edge_attention.types import AttentionOutput, Inputs, Relation
from slif_jax.kernels.layout import Structure, edges_of, structure_of
from slif_jax.kernels.shards import match_shards


def edge_attention(
    graph: jraph.GraphsTuple,
    query: Float[Array, "R D"],
    x: Float[Array, "S D"],
    relation_vectors: Float[Array, "K D"] | None = None,
    *,
    weight: Float[Array, " E"] | None = None,
    scale: float | None = None,
    implementation: str | None = None,
) -> AttentionOutput:
    """Attends from each receiver over its incoming edges.

    R receivers, S senders, E edge slots, K relations, D columns. An edge e from s to r with relation k carries the
    message m_e = x_s * relation_vectors_k and has the logit l_e = scale * <query_r, m_e>. Then
    a_e = w_e exp(l_e) / sum over e' into r of w_e' exp(l_e'), and values_r = sum over e into r of a_e m_e.
    Differentiable once in `query`, `x`, `relation_vectors` and the weights, through both results.

    Args:
      graph: edges sorted by receiver; `graph.edges.relation` gives each edge's relation.
      query: `[R, D]`, float32 or bfloat16.
      x: `[S, D]` senders' rows, of the same dtype.
      relation_vectors: `[K, D]`, of the same dtype. None for messages without relation vectors.
      weight: `[E]` prior weights in receiver order. None takes `graph.edges.weight`, or 1 if the graph has none.
        An edge of weight 0 or less is absent: it has no part in any result or gradient.
      scale: factor of the logits. None takes D ** -0.5. Static.
      implementation: see `slif_jax.ops`. None picks the fastest that works.

    Returns:
      `AttentionOutput(values, logsumexp)`: `[R, D]` in `x.dtype`, and `[R]` float32 with
      log(sum of w_e exp(l_e)). A receiver without edges has values 0, logsumexp -inf and gradients 0.

    Raises:
      ValueError: if shapes do not fit, `relation_vectors` is given for a graph without relations, or a named
        implementation cannot run.
      TypeError: if dtypes differ, or are neither float32 nor bfloat16.
    """
    name = dispatch.resolve("edge_attention", implementation)
    structure, relation, inputs = _prepare(graph, query, x, relation_vectors, weight)
    return _jit_attention(name, _scale(scale, query), *match_shards(structure, relation, inputs))


def attention_weights(
    graph: jraph.GraphsTuple,
    query: Float[Array, "R D"],
    x: Float[Array, "S D"],
    relation_vectors: Float[Array, "K D"] | None,
    logsumexp: Float[Array, " R"],
    *,
    weight: Float[Array, " E"] | None = None,
    scale: float | None = None,
) -> Float[Array, " E"]:
    """The weight of each edge in an attention, for inspection.

    Args:
      graph: as in `edge_attention`, like all arguments not named here.
      query: `[R, D]`.
      x: `[S, D]`.
      relation_vectors: `[K, D]` or None.
      logsumexp: `[R]`, of the same attention, or of several merged ones.
      weight: `[E]` or None.
      scale: factor of the logits, or None.

    Returns:
      `[E]`: w_e exp(l_e - logsumexp of the receiver), 0 on padding and absent edges.

    Raises:
      ValueError: as `edge_attention`.
      TypeError: as `edge_attention`.
    """
    structure, relation, inputs = _prepare(graph, query, x, relation_vectors, weight)
    return reference.attention_weights(structure, relation, _scale(scale, query), inputs, logsumexp)


def _scale(scale: float | None, query: Array) -> float:
    return max(query.shape[1], 1) ** -0.5 if scale is None else float(scale)


def _prepare(graph, query, x, relation_vectors, weight) -> tuple[Structure, Relation, Inputs]:
    arrays = {"query": query, "x": x} | ({} if relation_vectors is None else {"relation_vectors": relation_vectors})
    for name, value in arrays.items():
        if value.ndim != 2 or value.shape[1] != x.shape[1]:
            raise ValueError(f"`{name}` must be a matrix as wide as `x`: got shape {value.shape}, `x` {x.shape}.")
        if value.dtype != x.dtype or value.dtype not in (jnp.float32, jnp.bfloat16):
            raise TypeError(
                f"`query`, `x` and `relation_vectors` must all be float32 or all bfloat16: `{name}` is {value.dtype}."
            )
    structure = structure_of(graph, num_receivers=query.shape[0], num_senders=x.shape[0])
    edges = edges_of(graph)
    relation = None
    if relation_vectors is not None:
        relation = edges.relation
        if relation is None:
            raise ValueError("`relation_vectors` was given, but `graph.edges.relation` is None. Pass None for both.")
        if relation_vectors.shape[0] == 0:
            raise ValueError("`relation_vectors` must have a row per relation: it has none.")
    weight = edges.weight if weight is None else weight
    if weight is not None:
        if weight.shape != (structure.num_edges,):
            raise ValueError(f"`weight` must have one entry per edge slot: got {weight.shape}, {structure.num_edges}.")
        weight = weight.astype(jnp.float32)
    return structure, relation, Inputs(query, x, relation_vectors, weight)


_FORWARD = {"reference": reference.edge_attention, "xla": xla.forward, "native": native.forward}
_BACKWARD = {"xla": xla.backward, "native": native.backward}


def _with_scale(functions, scale):
    def fix(function):
        return lambda structure, relation, inputs, *rest: function(structure, relation, scale, inputs, *rest)

    return {name: fix(function) for name, function in functions.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(
    name: str | None, scale: float, structure: Structure, relation: Relation, inputs: Inputs
) -> AttentionOutput:
    return dispatch.call("edge_attention", name, _with_scale(_FORWARD, scale), structure, relation, inputs)


def _attention_fwd(name, scale, structure, relation, inputs):
    output = _attention(name, scale, structure, relation, inputs)
    return output, (structure, relation, inputs, output)


def _attention_bwd(name, scale, residuals, ct):
    structure, relation, inputs, output = residuals
    functions = _with_scale(_BACKWARD, scale)
    grads = dispatch.call("edge_attention", name, functions, structure, relation, inputs, output, *ct)
    return None, None, grads


_attention.defvjp(_attention_fwd, _attention_bwd)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _jit_attention(name, scale, structure, relation, inputs):
    if name == "reference":
        return reference.edge_attention(structure, relation, scale, inputs)
    return _attention(name, scale, structure, relation, inputs)
