"""The graphs of an epoch, as `jraph.GraphsTuple`s, and how they are built from a `Dataset`.

Every graph has its edges sorted by receiver and static shapes. `edges` is `Edges(weight, relation)`, `globals` the
`Layout` that the sparse kernels use, `nodes` is None except in a feature graph, where it is `ItemFeatures`.
"""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from slif_jax import ops
from slif_jax.cold_items import ColdItems, find_cold_items
from slif_jax.collectives import Axis, gather_rows, num_shards, shard_index
from slif_jax.config import Config
from slif_jax.data import Dataset, FilledRows
from slif_jax.data.checks import fitting
from slif_jax.kernels.layout import build_graph, edges_of, fixed_degree_graph, layout_of
from slif_jax.linear import LinearScores, fit_linear
from slif_jax.losses import normalise_rows
from slif_jax.neighbors import SideBySide, nearest_rows

_LEAST_DEGREE = 1e-24


class ItemFeatures(NamedTuple):
    """Node features of a modality's graph."""

    x: Float[Array, "items d_m"]
    """Raw features; rows of items that lack the modality are zero. For a mesh, `FilledRows`, which are not read yet."""
    present: Bool[Array, " items"]
    """Which items have the modality."""


class Graphs(NamedTuple):
    """The static part of the graphs; the correlation graph joins them in `model.encode`."""

    interactions: jraph.GraphsTuple
    """Users 0..U-1 and items U..U+I-1, an edge each way per training interaction, weight w / sqrt(d_u d_i) with w of
    `Dataset.train_weights`, or 1, and d their sums."""
    user_items: jraph.GraphsTuple
    """The users' rows of `interactions` on their own: receivers are users, senders item ids 0..I-1."""
    knowledge: jraph.GraphsTuple | None
    """Entities, the items first; each triple (h, r, t) as t -> h with relation r and h -> t with relation r + R."""
    features: dict[str, jraph.GraphsTuple]
    """Per modality, the k nearest items by cosine of the raw features, symmetric-normalised."""
    cold: ColdItems | None
    """What items without training interactions inherit from, where there are such items."""
    warm: Bool[Array, " items"]
    """Which items have training interactions."""
    linear: dict[str, LinearScores]
    """What linear models of interactions and features add to the scores, by name, where they are switched on."""


def item_features(graph: jraph.GraphsTuple) -> ItemFeatures:
    """The node features of a feature graph."""
    return cast(ItemFeatures, graph.nodes)


def edge_weights(graph: jraph.GraphsTuple) -> Float[Array, " e"]:
    """The weights of a weighted graph's edges."""
    return cast(Array, edges_of(graph).weight)


def num_receivers(graph: jraph.GraphsTuple) -> int:
    """How many nodes the graph's edges end at."""
    return layout_of(graph).indptr.shape[0] - 1


def symmetric_normalise(
    senders: Int[Array, " e"],
    receivers: Int[Array, " e"],
    weight: Float[Array, " e"],
    *,
    num_nodes: int,
    axis: Axis = None,
) -> Float[Array, " e"]:
    """Weights divided by the square roots of both ends' degrees.

    The degree of a node is the weight it receives. A node that receives nothing, or less than 1e-24, whose derivative
    would be infinite, keeps weight 0 on its edges.

    Args:
      senders: `[E]` node ids.
      receivers: `[E]` node ids.
      weight: `[E]`, non-negative.
      num_nodes: N. Static.
      axis: mesh axis over which the nodes are shared: N and the receivers count this device's, the senders all.

    Returns:
      `[E]` weights.

    Reference: Kipf and Welling, ICLR 2017, eq. (2), without self-edges.

    Example:
      >>> import jax.numpy as jnp
      >>> from slif_jax import graphs
      >>> ends, weight = jnp.array([0, 1]), jnp.array([4.0, 4.0])
      >>> graphs.symmetric_normalise(ends, ends[::-1], weight, num_nodes=2).tolist()
      [1.0, 1.0]
    """
    degree = jax.ops.segment_sum(weight, receivers, num_nodes)
    some = degree > _LEAST_DEGREE
    scale = jnp.where(some, jax.lax.rsqrt(jnp.where(some, degree, 1.0)), 0.0)
    return weight * scale[receivers] * gather_rows(scale, axis)[senders]


def build_graphs(dataset: Dataset, config: Config, mesh: Mesh | None = None) -> Graphs:
    """Builds what `config` uses of the interaction, knowledge and feature graphs.

    Args:
      dataset: loaded data.
      config: switches and neighbour counts.
      mesh: devices that will share the graphs (`Sharder.graphs`): the features of a device's rows alone are kept, and
        the neighbours by features found by all devices. None for the default device alone.

    Returns:
      `Graphs` on the default device; for a mesh call it inside `meshes.built_on_host`.

    Raises:
      ValueError: if `config.modalities` names one that the data do not have, or the data break a rule of `Dataset`.
    """
    users, items = fitting(dataset).train.T
    credible = dataset.train_values
    user_degree = np.bincount(users, credible, dataset.num_users)
    item_degree = np.bincount(items, credible, dataset.num_items)
    weight = (credible / np.sqrt(user_degree[users] * item_degree[items])).astype(np.float32)
    num_nodes = dataset.num_users + dataset.num_items
    shifted = items + dataset.num_users
    interactions = build_graph(
        np.concatenate([shifted, users]),
        np.concatenate([users, shifted]),
        np.concatenate([weight, weight]),
        num_senders=num_nodes,
        num_receivers=num_nodes,
    )
    user_items = build_graph(items, users, weight, num_senders=dataset.num_items, num_receivers=dataset.num_users)
    modalities, knowledge = used_modalities(dataset, config), uses_knowledge(dataset, config)
    k = config.feature_neighbors
    cold = find_cold_items(dataset, modalities, knowledge=knowledge, num_neighbors=k, mesh=mesh)
    return Graphs(
        interactions=interactions,
        user_items=user_items,
        knowledge=knowledge_graph(dataset) if knowledge else None,
        features=feature_graphs(dataset, modalities, k, missing=config.missing_features, mesh=mesh),
        cold=cold,
        warm=jnp.asarray(item_degree > 0),
        linear=fit_linear(dataset, config, modalities, cold),
    )


def uses_knowledge(dataset: Dataset, config: Config) -> bool:
    """Whether there is a knowledge graph and the switches are on."""
    return config.knowledge_graph and config.side_information and len(dataset.triples) > 0


def used_modalities(dataset: Dataset, config: Config) -> tuple[str, ...]:
    """The modalities that the switches leave, sorted by name.

    Args:
      dataset: loaded data.
      config: `modalities` is 'all', 'none' or names.

    Returns:
      Names.

    Raises:
      ValueError: on a name that the data do not have.
    """
    if not config.side_information or config.modalities == ("none",):
        return ()
    if config.modalities == ("all",):
        return tuple(sorted(dataset.features))
    for name in config.modalities:
        if name not in dataset.features:
            known = ", ".join(sorted(dataset.features)) or "no modality"
            raise ValueError(f"`modalities` names '{name}', but {dataset.name} has {known}.")
    return tuple(sorted(set(config.modalities)))


def side_views(dataset: Dataset, config: Config) -> tuple[str, ...]:
    """The views that a model has beside the collaborative one: the modalities, then 'knowledge'."""
    return (*used_modalities(dataset, config), *(("knowledge",) if uses_knowledge(dataset, config) else ()))


def missing_features(dataset: Dataset, config: Config) -> dict[str, int]:
    """How many items lack each modality that `config` uses."""
    names = used_modalities(dataset, config)
    return {name: int(np.count_nonzero(~dataset.features[name].present)) for name in names}


def knowledge_graph(dataset: Dataset) -> jraph.GraphsTuple:
    """The triples and their inverses; relation r + R is the inverse of r. Repeated triples count once.

    Args:
      dataset: data with at least one triple.

    Returns:
      A graph over `num_entities` nodes, weight 1 per edge.
    """
    head, relation, tail = np.unique(dataset.triples, axis=0).T
    return build_graph(
        np.concatenate([tail, head]),
        np.concatenate([head, tail]),
        relation=np.concatenate([relation, relation + dataset.num_relations]),
        num_senders=dataset.num_entities,
        num_receivers=dataset.num_entities,
    )


def feature_graphs(
    dataset: Dataset,
    names: tuple[str, ...],
    num_neighbors: int,
    *,
    missing: str = "neighbours",
    mesh: Mesh | None = None,
) -> dict[str, jraph.GraphsTuple]:
    """One graph per modality: the k nearest items of each item by cosine of the raw features, found in blocks.

    Only items that have the modality are neighbours. An item that lacks it takes the neighbours that another modality
    gives it, as far as those have this one.

    Args:
      dataset: loaded data.
      names: modalities.
      num_neighbors: k.
      missing: 'mean' or 'zero' give an item that lacks a modality these features, and it counts as having it; with the
        other policies of `Config.missing_features` it lacks it.
      mesh: as in `build_graphs`.

    Returns:
      By name, a graph over the items with `ItemFeatures` as nodes and k edges per item.
    """
    features: dict[str, ItemFeatures] = {}
    nearest: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in names:
        modality = dataset.features[name]
        rows, present = FilledRows(modality, mean=missing == "mean"), np.asarray(modality.present)
        if missing in ("mean", "zero"):
            present = np.ones_like(present)
        unit = SideBySide([rows], np.arange(dataset.num_items))
        nearest[name] = nearest_rows(unit, unit, num_neighbors, mesh)
        x = jnp.asarray(rows[:]) if mesh is None else cast(Array, rows)
        features[name] = ItemFeatures(x, jnp.asarray(present))
    return {name: _feature_graph(name, features, nearest) for name in names}


def _feature_graph(
    name: str, features: dict[str, ItemFeatures], nearest: dict[str, tuple[np.ndarray, np.ndarray]]
) -> jraph.GraphsTuple:
    neighbors, weights = nearest[name]
    present = np.asarray(features[name].present)
    missing = ~present
    for other_neighbors, other_weights in nearest.values():
        usable = missing[:, None] & (other_neighbors >= 0) & present[other_neighbors]
        neighbors = np.where(usable, other_neighbors, neighbors)
        weights = np.where(usable, other_weights, weights)
        missing = missing & ~usable.any(axis=1)
    return _neighbor_graph(neighbors, weights)._replace(nodes=features[name])


def nearest_neighbors(
    vectors: Float[Array, "items d"], num_neighbors: int, recall_target: float | None = None, axis: Axis = None
) -> tuple[Int[Array, "items k"], Float[Array, "items k"]]:
    """Each item's k nearest items by cosine, never itself, in blocks: no `[I, I]` array is made.

    Args:
      vectors: `[I, D]`; a zero row has no neighbours and is nobody's.
      num_neighbors: k. Static.
      recall_target: see `ops.topk`. Static.
      axis: mesh axis over which the items are shared: I counts this device's, the ids all. Static.

    Returns:
      `[I, k]` ids, nearest first, -1 where no item has a positive cosine; and `[I, k]` cosines, 0 there.
    """
    unit = normalise_rows(vectors.astype(jnp.float32))
    offset = shard_index(axis) * unit.shape[0]
    keys = gather_rows(unit, axis)
    found = ops.topk(unit, keys, num_neighbors, exclude="self", row_offset=offset, recall_target=recall_target)
    positive = found.values > 0
    return jnp.where(positive, found.indices, -1), jnp.where(positive, found.values, 0.0)


def neighbor_graph(
    neighbors: Int[Array, "items k"], weights: Float[Array, "items k"], axis: Axis = None
) -> jraph.GraphsTuple:
    """Turns neighbour lists into a symmetric-normalised graph of exactly I * k edges.

    Args:
      neighbors: `[I, k]` item ids; -1 for none.
      weights: `[I, k]`, non-negative, 0 for none.
      axis: mesh axis over which the items are shared: I counts this device's, the ids all. Static.

    Returns:
      A graph in which edge j of item i stands at i * k + j; a missing neighbour is an edge of weight 0 from the item
      to itself.
    """
    num_items, k = neighbors.shape
    receivers = jnp.repeat(jnp.arange(num_items, dtype=jnp.int32), k)
    senders = jnp.where(neighbors.reshape(-1) < 0, receivers, neighbors.reshape(-1))
    normalised = symmetric_normalise(senders, receivers, weights.reshape(-1), num_nodes=num_items, axis=axis)
    return fixed_degree_graph(neighbors, normalised.reshape(num_items, k), num_items * num_shards(axis))


_neighbor_graph = jax.jit(neighbor_graph)
