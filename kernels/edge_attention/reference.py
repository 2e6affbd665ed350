"""Defines edge attention in plain segment operations, differentiated by JAX itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from slif_jax.kernels.edge_attention.types import AttentionOutput, Inputs, Relation
from slif_jax.kernels.layout import Structure
from slif_jax.kernels.spmm.reference import ends


def present_edges(structure: Structure, inputs: Inputs) -> tuple[Array, Array, Array, Array]:
    """Sender, receiver (R where the edge is absent), presence and weight of each edge."""
    senders, receivers, present = ends(structure)
    if inputs.weight is not None:
        present = present & (inputs.weight > 0)
    receivers = jnp.where(present, receivers, jnp.int32(structure.num_receivers))
    weight = jnp.ones(present.shape, jnp.float32) if inputs.weight is None else inputs.weight
    return senders, receivers, present, jnp.where(present, weight, jnp.float32(1))


def gather(rows: Array, ids: Array, present: Array) -> Array:
    """`[E, D]` rows in float32, 0 for absent edges."""
    picked = jnp.take(rows, ids, axis=0, mode="clip").astype(jnp.float32)
    return jnp.where(present[:, None], picked, jnp.float32(0))


def edge_attention(structure: Structure, relation: Relation, scale: float, inputs: Inputs) -> AttentionOutput:
    """See `slif_jax.ops.edge_attention`."""
    count = structure.num_receivers
    senders, receivers, present, weight = present_edges(structure, inputs)
    messages = gather(inputs.x, senders, present)
    if inputs.relation_vectors is not None and relation is not None:
        messages = messages * gather(inputs.relation_vectors, relation, present)
    queries = gather(inputs.query, receivers, present)
    logits = jnp.sum(queries * messages, axis=1) * jnp.float32(scale) + jnp.log(weight)
    logits = jnp.where(present, logits, -jnp.inf)
    peak = jax.lax.stop_gradient(jax.ops.segment_max(logits, receivers, num_segments=count))
    peak = jnp.where(jnp.isfinite(peak), peak, jnp.float32(0))
    shifted = jnp.where(present, logits - jnp.take(peak, receivers, mode="clip"), jnp.float32(0))
    exps = jnp.where(present, jnp.exp(shifted), jnp.float32(0))
    total = jax.ops.segment_sum(exps, receivers, num_segments=count)
    some = total > 0
    safe = jnp.where(some, total, jnp.float32(1))
    sums = jax.ops.segment_sum(exps[:, None] * messages, receivers, num_segments=count)
    return AttentionOutput(
        values=(sums / safe[:, None]).astype(inputs.x.dtype),
        logsumexp=jnp.where(some, jnp.log(safe) + peak, -jnp.inf),
    )


def attention_weights(
    structure: Structure, relation: Relation, scale: float, inputs: Inputs, logsumexp: Float[Array, " R"]
) -> Float[Array, " E"]:
    """a_e = w_e exp(l_e - logsumexp_{r(e)}), 0 for absent edges."""
    senders, receivers, present, weight = present_edges(structure, inputs)
    messages = gather(inputs.x, senders, present)
    if inputs.relation_vectors is not None and relation is not None:
        messages = messages * gather(inputs.relation_vectors, relation, present)
    logits = jnp.sum(gather(inputs.query, receivers, present) * messages, axis=1) * jnp.float32(scale)
    shift = jnp.where(present, jnp.take(logsumexp, receivers, mode="clip"), jnp.float32(0))
    return jnp.where(present, weight * jnp.exp(logits - shift), jnp.float32(0))
