"""Edge attention by the native CPU kernels: one fused pass forward, two backward."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from slif_jax.kernels.edge_attention.types import AttentionOutput, Inputs, Relation
from slif_jax.kernels.layout import Structure
from slif_jax.kernels.shards import result


def forward(structure: Structure, relation: Relation, scale: float, inputs: Inputs) -> AttentionOutput:
    """As the reference."""
    rows, columns = inputs.query.shape
    like = (structure.indptr, inputs.query, inputs.x)
    out = (result((rows, columns), jnp.float32, *like), result((rows,), jnp.float32, *like))
    call = jax.ffi.ffi_call("slif_attention", out, vmap_method="sequential")
    values, logsumexp = call(
        structure.indptr, structure.senders, *_plain(structure, relation, inputs), scale=np.float32(scale)
    )
    return AttentionOutput(values.astype(inputs.x.dtype), logsumexp)


def backward(
    structure: Structure,
    relation: Relation,
    scale: float,
    inputs: Inputs,
    output: AttentionOutput,
    ct_values: Float[Array, "R D"],
    ct_logsumexp: Float[Array, " R"],
) -> Inputs:
    """The inputs' cotangents, recomputed from the saved logsumexp."""
    plain = _plain(structure, relation, inputs)
    _, weight, query, x, vectors = plain
    shapes = (query.shape, x.shape, vectors.shape, weight.shape, (structure.num_edges, 2))
    call = jax.ffi.ffi_call(
        "slif_attention_backward",
        tuple(result(shape, jnp.float32, structure.indptr, query, x) for shape in shapes),
        vmap_method="sequential",
    )
    dq, dx, dv, dw, _ = call(
        structure.indptr,
        structure.senders,
        structure.t_indptr,
        structure.t_receivers,
        structure.t_perm,
        *plain,
        output.values.astype(jnp.float32),
        output.logsumexp,
        ct_values.astype(jnp.float32),
        ct_logsumexp,
        scale=np.float32(scale),
    )
    return Inputs(
        query=dq.astype(inputs.query.dtype),
        x=dx.astype(inputs.x.dtype),
        relation_vectors=None if inputs.relation_vectors is None else dv.astype(inputs.relation_vectors.dtype),
        weight=None if inputs.weight is None else dw,
    )


def _plain(structure: Structure, relation: Relation, inputs: Inputs) -> tuple[Array, Array, Array, Array, Array]:
    """Relation, weight, query, x and relation vectors in float32; empty arrays for None."""
    vectors = inputs.relation_vectors
    return (
        structure.senders[:0] if relation is None or vectors is None else relation,
        jnp.zeros((0,), jnp.float32) if inputs.weight is None else inputs.weight,
        inputs.query.astype(jnp.float32),
        inputs.x.astype(jnp.float32),
        jnp.zeros((0, inputs.x.shape[1]), jnp.float32) if vectors is None else vectors.astype(jnp.float32),
    )
