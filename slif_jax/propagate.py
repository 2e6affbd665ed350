"""Pure functions that carry vectors over the graphs; the correlation graph S joins each of them as extra edges.

The edges of S and of a static graph share their receivers, so the union of both edge sets is the sum of two operators
(and, under a softmax, the merge of two partial softmaxes). Nothing is sorted or copied when S changes.

With `axis`, each device has some rows of every table and the edges that end at them: senders count the rows of all
devices, the first device's first, and a layer starts by gathering them (`slif_jax.collectives`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
from jax import Array
from jaxtyping import Float

from slif_jax import ops
from slif_jax.collectives import Axis, by_columns, gather_rows, num_shards
from slif_jax.graphs import edge_weights, num_receivers
from slif_jax.ops import AttentionOutput


class KnowledgeWeights(NamedTuple):
    """The attention of one hop, edge by edge. The edges of an entity, those of both kinds together, sum to 1."""

    triples: Float[Array, " e"]
    """In the order of the knowledge graph's edges; 0 on padding."""
    correlation: Float[Array, " i_k"] | None
    """In the order of the correlation graph's edges; None where it takes no part."""


def propagate(
    graph: jraph.GraphsTuple,
    x: Float[Array, "n d"],
    *,
    num_layers: int,
    correlation: jraph.GraphsTuple | None = None,
    correlation_weight: float | Float[Array, ""] = 0.0,
    first_receiver: int = 0,
    axis: Axis = None,
    blocks: int = 1,
) -> Float[Array, "n d"]:
    """LightGCN propagation: the mean of `num_layers` + 1 layers.

    N is the number of nodes, D the width.

    Args:
      graph: symmetric-normalised, over N nodes.
      x: `[N, D]` node vectors.
      num_layers: layers; 0 returns `x`. Static.
      correlation: item-item edges that are added with `correlation_weight`, over the nodes `first_receiver` to N - 1.
      correlation_weight: gamma.
      first_receiver: the number of users, where `graph` holds users before items. Static.
      axis: mesh axis over which the rows are shared; N counts this device's. Static.
      blocks: with an axis, the rows of the other devices are fetched for D / `blocks` columns at a time, and their
        memory is as much smaller. Static.

    Returns:
      `[N, D]` float32; what layers pass on is in `x.dtype`.

    Raises:
      ValueError: if `x` has not one row per node, or D is not a multiple of `blocks`.

    Reference: He et al., "LightGCN", SIGIR 2020, eq. (7) and (8); docs/method.md, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> from slif_jax import ops, propagate
      >>> graph = ops.build_graph([1, 0], [0, 1], [1.0, 1.0], num_senders=2, num_receivers=2)
      >>> propagate.propagate(graph, jnp.array([[0.0], [1.0]]), num_layers=1).tolist()
      [[0.5], [0.5]]
    """
    _check_rows(graph, x)

    def carry(layer: Array) -> Array:
        total = layer.astype(jnp.float32)
        for _ in range(num_layers):
            sources = gather_rows(layer, axis)
            following = ops.spmm(graph, sources)
            if correlation is not None:
                items = _slice_of_each(sources, first_receiver, len(layer), axis)
                related = correlation_weight * ops.spmm(correlation, items)
                following = jnp.concatenate([following[:first_receiver], following[first_receiver:] + related])
            layer = following
            total = total + layer.astype(jnp.float32)
        return total / (num_layers + 1)

    return by_columns(carry, x, axis, blocks)


def propagate_features(
    graph: jraph.GraphsTuple,
    x: Float[Array, "items d"],
    *,
    num_layers: int,
    correlation: jraph.GraphsTuple | None = None,
    correlation_weight: float | Float[Array, ""] = 0.0,
    axis: Axis = None,
    blocks: int = 1,
) -> Float[Array, "items d"]:
    """Carries item vectors over a feature graph mixed with the correlation graph; the last layer alone counts.

    Args:
      graph: over the items.
      x: `[I, D]`.
      num_layers: layers. Static.
      correlation: over the items, or None.
      correlation_weight: beta, the share of `correlation` in the mix.
      axis: as in `propagate`.
      blocks: as in `propagate`.

    Returns:
      `[I, D]`: `num_layers` times (1 - beta) A x + beta S x.

    Raises:
      ValueError: if `x` has not one row per item, or D is not a multiple of `blocks`.

    Reference: docs/method.md, section 3.
    """
    _check_rows(graph, x)

    def carry(layer: Array) -> Array:
        for _ in range(num_layers):
            sources = gather_rows(layer, axis)
            following = ops.spmm(graph, sources)
            if correlation is not None:
                share = jnp.asarray(correlation_weight, x.dtype)
                following = (1 - share) * following + share * ops.spmm(correlation, sources)
            layer = following
        return layer

    return by_columns(carry, x, axis, blocks)


def attend_knowledge(
    graph: jraph.GraphsTuple,
    query: Float[Array, "n d"],
    x: Float[Array, "n d"],
    relation_vectors: Float[Array, "relations d"],
    *,
    correlation: jraph.GraphsTuple | None = None,
    correlation_relation: Float[Array, "one d"] | None = None,
    correlation_weight: float = 1.0,
    axis: Axis = None,
) -> Float[Array, "n d"]:
    """One hop of relation-aware attention over the knowledge graph.

    Messages are x_tail * w_relation; the weights are a softmax, over all edges of a receiver, of their inner product
    with the receiver's query over sqrt(D). Correlation edges take part in the same softmax, with their own relation.

    Args:
      graph: knowledge graph over N entities, the I items first.
      query: `[N, D]`.
      x: `[N, D]` entity vectors.
      relation_vectors: `[2R, D]`.
      correlation: item-item edges; they take part if `correlation_relation` is given too.
      correlation_relation: `[1, D]`, their relation vector.
      correlation_weight: how much an average correlation edge weighs next to a triple before the softmax. Static.
      axis: as in `propagate`.

    Returns:
      `[N, D]`; zero for an entity without edges.

    Raises:
      ValueError: if `x` has not one row per entity.

    Reference: docs/method.md, section 4.
    """
    _check_rows(graph, x)
    sources = gather_rows(x, axis)
    triples = ops.edge_attention(graph, query, sources, relation_vectors)
    if correlation is None or correlation_relation is None:
        return triples.values
    num_items = num_receivers(correlation)
    joined = _as_knowledge(correlation, correlation_weight)
    item_sources = _slice_of_each(sources, 0, num_items, axis)
    related = ops.edge_attention(joined, query[:num_items], item_sources, correlation_relation)
    items = AttentionOutput(triples.values[:num_items], triples.logsumexp[:num_items])
    return jnp.concatenate([merge_attention(items, related), triples.values[num_items:]])


def knowledge_weights(
    graph: jraph.GraphsTuple,
    query: Float[Array, "n d"],
    x: Float[Array, "n d"],
    relation_vectors: Float[Array, "relations d"],
    *,
    correlation: jraph.GraphsTuple | None = None,
    correlation_relation: Float[Array, "one d"] | None = None,
    correlation_weight: float = 1.0,
) -> KnowledgeWeights:
    """The weights with which `attend_knowledge` takes up each edge, for inspection.

    Args:
      graph: as in `attend_knowledge`, like all other arguments.
      query: `[N, D]`.
      x: `[N, D]`.
      relation_vectors: `[2R, D]`.
      correlation: item-item edges, or None.
      correlation_relation: `[1, D]`, or None.
      correlation_weight: their weight next to a triple. Static.

    Returns:
      `KnowledgeWeights`.

    Raises:
      ValueError: if `x` has not one row per entity.
    """
    _check_rows(graph, x)
    total = ops.edge_attention(graph, query, x, relation_vectors).logsumexp
    if correlation is None or correlation_relation is None:
        return KnowledgeWeights(ops.attention_weights(graph, query, x, relation_vectors, total), None)
    num_items = num_receivers(correlation)
    joined = _as_knowledge(correlation, correlation_weight)
    items = (query[:num_items], x[:num_items], correlation_relation)
    both = jnp.logaddexp(total[:num_items], ops.edge_attention(joined, *items).logsumexp)
    total = jnp.concatenate([both, total[num_items:]])
    return KnowledgeWeights(
        triples=ops.attention_weights(graph, query, x, relation_vectors, total),
        correlation=ops.attention_weights(joined, *items, both),
    )


def _as_knowledge(correlation: jraph.GraphsTuple, correlation_weight: float) -> jraph.GraphsTuple:
    """The correlation graph as part of the knowledge graph: one relation, prior weights of `correlation_weight`."""
    weight = edge_weights(correlation)
    degree = weight.shape[0] / num_receivers(correlation)
    edges = ops.Edges(weight * (degree * correlation_weight), jnp.zeros(weight.shape, jnp.int32))
    return correlation._replace(edges=edges)


def merge_attention(a: AttentionOutput, b: AttentionOutput) -> Float[Array, "n d"]:
    """The attention over the union of two edge sets, from the attentions over each.

    Args:
      a: values `[N, D]` and log of the softmax's denominator `[N]`, -inf without edges.
      b: the same over the other edges.

    Returns:
      `[N, D]` values; zero where both are without edges.
    """
    a_some, b_some = jnp.isfinite(a.logsumexp), jnp.isfinite(b.logsumexp)
    both = a_some & b_some
    share = jax.nn.sigmoid(jnp.where(both, a.logsumexp, 0.0) - jnp.where(both, b.logsumexp, 0.0))
    share = jnp.where(both, share, a_some.astype(share.dtype))
    # Rows without edges have zero values, so the share given to them does not matter.
    share = share.astype(a.values.dtype)[:, None]
    return share * a.values + (1 - share) * b.values


def _slice_of_each(sources: Array, start: int, stop: int, axis: Axis) -> Array:
    """Of gathered rows, those from `start` to `stop` of every device's part."""
    parts = sources.reshape(num_shards(axis), -1, sources.shape[1])
    return parts[:, start:stop].reshape(-1, sources.shape[1])


def _check_rows(graph: jraph.GraphsTuple, x: Array) -> None:
    num_nodes = num_receivers(graph)
    if x.shape[0] != num_nodes:
        raise ValueError(f"`x` must have one row per node: got x.shape={x.shape} for a graph of {num_nodes} nodes.")
