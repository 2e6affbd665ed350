"""Edge attention in XLA operations, with a backward pass that recomputes instead of storing `[E, D]` arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from slif_jax.kernels.edge_attention.reference import attention_weights, edge_attention, gather, present_edges
from slif_jax.kernels.edge_attention.types import AttentionOutput, Inputs, Relation
from slif_jax.kernels.layout import Structure

forward = edge_attention


def backward(
    structure: Structure,
    relation: Relation,
    scale: float,
    inputs: Inputs,
    output: AttentionOutput,
    ct_values: Float[Array, "R D"],
    ct_logsumexp: Float[Array, " R"],
) -> Inputs:
    """The inputs' cotangents, from a_e recomputed with the saved logsumexp."""
    senders, receivers, present, weight = present_edges(structure, inputs)
    sc = jnp.float32(scale)
    a = attention_weights(structure, relation, scale, inputs, output.logsumexp)
    rows = gather(inputs.x, senders, present)
    vectors = inputs.relation_vectors
    relations = None if vectors is None or relation is None else gather(vectors, relation, present)
    messages = rows if relations is None else rows * relations
    g = gather(ct_values, receivers, present)
    centre = jnp.sum(ct_values.astype(jnp.float32) * output.values.astype(jnp.float32), axis=1)
    shift = jnp.take(ct_logsumexp - centre, receivers, mode="clip")
    ds = a * jnp.where(present, jnp.sum(g * messages, axis=1) + shift, jnp.float32(0))
    dq = jax.ops.segment_sum((sc * ds)[:, None] * messages, receivers, num_segments=structure.num_receivers)
    dm = a[:, None] * g + (sc * ds)[:, None] * gather(inputs.query, receivers, present)
    by_sender = jnp.where(present, senders, jnp.int32(structure.num_senders))
    dx = jax.ops.segment_sum(dm if relations is None else dm * relations, by_sender, num_segments=structure.num_senders)
    dv = None
    if vectors is not None and relation is not None:
        count = vectors.shape[0]
        ids = jnp.where(present, jnp.clip(relation, 0, count - 1), jnp.int32(count))
        dv = jax.ops.segment_sum(dm * rows, ids, num_segments=count).astype(vectors.dtype)
    return Inputs(
        query=dq.astype(inputs.query.dtype),
        x=dx.astype(inputs.x.dtype),
        relation_vectors=dv,
        weight=None if inputs.weight is None else jnp.where(present, ds / weight, jnp.float32(0)),
    )
