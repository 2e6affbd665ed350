"""The self-loop: item vectors of the last epoch become the item-item correlation graph of the next one.

Vectors as such, or in the scores that they get from all users: `in_scores`.
"""

import functools

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, Int

from slif_jax.collectives import Axis, gather_rows, shard_index, total
from slif_jax.graphs import Graphs, edge_weights, item_features, nearest_neighbors, neighbor_graph
from slif_jax.meshes import host_rows
from slif_jax.neighbors import SideBySide, nearest_rows


@functools.partial(jax.jit, static_argnames=("num_neighbors", "mutual", "recall_target", "axis"))
def rebuild(
    item_vectors: Float[Array, "items d"],
    *,
    num_neighbors: int,
    mutual: bool = False,
    recall_target: float | None = None,
    axis: Axis = None,
) -> jraph.GraphsTuple:
    """Builds the correlation graph S of item vectors; a jitted step of its own.

    Args:
      item_vectors: `[I, D]` what items are compared by: item representations of the last epoch, or `in_scores` of them.
      num_neighbors: k. Static.
      mutual: keep an edge only if each of its ends is among the k nearest of the other. Static.
      recall_target: None finds the k nearest exactly; a share below 1 lets TPUs search approximately. Static.
      axis: mesh axis over which the items are shared: I counts this device's, the graph is that of its rows. Static.

    Returns:
      A graph over the items with k edges each: the k nearest others by cosine, weights symmetric-normalised. The
      shapes depend on I and k alone, so nothing that takes it compiles twice.

    Reference: Guo et al., "SLIF-MR", 2025, self-loop iterative fusion; docs/method.md, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> from slif_jax import correlation
      >>> vectors = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
      >>> graph = correlation.rebuild(vectors, num_neighbors=1)
      >>> correlation.neighbors(graph, 1).tolist()
      [[1], [0], [3], [2]]
    """
    found, cosines = nearest_neighbors(item_vectors, num_neighbors, recall_target, axis)
    return _graph(found, cosines, mutual=mutual, axis=axis)


@functools.partial(jax.jit, static_argnames=("mutual", "axis"))
def _graph(found: Array, cosines: Array, *, mutual: bool, axis: Axis = None) -> jraph.GraphsTuple:
    if mutual:
        own = shard_index(axis) * len(found) + jnp.arange(len(found), dtype=jnp.int32)
        theirs = gather_rows(found, axis)[jnp.maximum(found, 0)]
        returned = jnp.any(theirs == own[:, None, None], axis=2) & (found >= 0)
        found, cosines = jnp.where(returned, found, -1), jnp.where(returned, cosines, 0.0)
    return neighbor_graph(found, cosines, axis)


@functools.partial(jax.jit, static_argnames=("num_items", "num_neighbors"))
def empty(num_items: int, num_neighbors: int) -> jraph.GraphsTuple:
    """The correlation graph before the first rebuild: every edge has weight 0.

    Args:
      num_items: I. Static.
      num_neighbors: k. Static.

    Returns:
      A graph shaped like that of `rebuild`.
    """
    shape = (num_items, num_neighbors)
    return neighbor_graph(jnp.full(shape, -1, jnp.int32), jnp.zeros(shape, jnp.float32))


def warm_up(
    graphs: Graphs, num_items: int, *, kind: str, num_neighbors: int, mutual: bool = False, mesh: Mesh | None = None
) -> jraph.GraphsTuple:
    """The correlation graph of the epochs before the first rebuild.

    Args:
      graphs: static graphs.
      num_items: I.
      kind: 'empty', or 'features': the nearest items by the modalities' features side by side, each at unit length;
        items without training interactions have no edges, as after a rebuild.
      num_neighbors: k.
      mutual: as in `rebuild`.
      mesh: devices to share the search; None for the default device alone.

    Returns:
      A graph shaped like that of `rebuild`; the empty one where there is no modality.

    Raises:
      ValueError: on another kind.
    """
    if kind not in ("empty", "features"):
        raise ValueError(f"`kind` must be 'empty' or 'features': got '{kind}'.")
    if kind == "empty" or not graphs.features:
        return empty(num_items, num_neighbors)
    warm = np.flatnonzero(np.asarray(graphs.warm))
    sides = SideBySide([host_rows(item_features(graph).x) for graph in graphs.features.values()], np.arange(num_items))
    joined = SideBySide([sides], warm)  # at unit length again: an item with more modalities is not nearer for it
    found, cosines = np.full((num_items, num_neighbors), -1, np.int32), np.zeros((num_items, num_neighbors), np.float32)
    among_warm, cosines[warm] = nearest_rows(joined, joined, num_neighbors, mesh)
    found[warm] = np.where(among_warm >= 0, warm[among_warm], -1)
    return _graph(jnp.asarray(found), jnp.asarray(cosines), mutual=mutual)


@functools.partial(jax.jit, static_argnames="momentum")
def moving_average(
    old: Float[Array, "n d"], new: Float[Array, "n d"], *, momentum: float, first: Array
) -> Float[Array, "n d"]:
    """What is fed back: an average over the epochs, of item representations or of `score_covariance`.

    Args:
      old: `[N, D]` the average so far.
      new: `[N, D]` this epoch's.
      momentum: share of `old` that is kept. Static.
      first: scalar bool, whether `old` holds nothing yet.

    Returns:
      `[N, D]`.
    """
    return jnp.where(first, new, momentum * old + (1.0 - momentum) * new)


@functools.partial(jax.jit, static_argnames="axis")
def score_covariance(
    users: Float[Array, "users d"], items: Float[Array, "items d"], axis: Axis = None
) -> Float[Array, "d d"]:
    """The covariance of user vectors, by which items are compared in the scores that all users give them.

    The score of user u for item i is x_u . y_i, so that the scores of items i and j covary over the users as y_i C y_j,
    C being the covariance of x: no score is written down.

    Args:
      users: `[U, D]` user vectors; rows of zeros, such as a mesh pads its shares with, do not count.
      items: `[I, D]` item vectors that set the scale; rows of zeros do not count either.
      axis: mesh axis over which users and items are shared: U and I count this device's. Static.

    Returns:
      `[D, D]`, the same on all devices: C over the mean variance of the items' scores, so that epochs weigh alike in an
      average.
    """
    highest = jax.lax.Precision.HIGHEST
    counted = jnp.any(users != 0, axis=1, keepdims=True)
    count = jnp.maximum(total(jnp.sum(counted.astype(jnp.float32)), axis), 1.0)
    mean = total(jnp.sum(users, axis=0), axis) / count
    centred = jnp.where(counted, users - mean[None, :], 0.0)
    covariance = total(jnp.matmul(centred.T, centred, precision=highest), axis) / count
    variances = jnp.sum(jnp.matmul(items, covariance, precision=highest) * items, axis=1)
    num_items = total(jnp.sum(jnp.any(items != 0, axis=1).astype(jnp.float32)), axis)
    variance = total(jnp.sum(variances), axis) / jnp.maximum(num_items, 1.0)
    return covariance / jnp.where(variance > 0, variance, 1.0)


@jax.jit
def in_scores(items: Float[Array, "items d"], covariance: Float[Array, "d d"]) -> Float[Array, "items d"]:
    """Item vectors whose cosines are the correlations of the items' scores over all users.

    Args:
      items: `[I, D]` item vectors.
      covariance: from `score_covariance`, C; zeros give zeros.

    Returns:
      `[I, D]`: `items` times a factor of C, up to a common scale.

    Reference: docs/method.md, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> from slif_jax import correlation
      >>> users = jnp.array([[1.0, 0.1], [-1.0, 0.1], [2.0, -0.2], [-2.0, 0.0]])  # they differ in the first column
      >>> items = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
      >>> vectors = correlation.in_scores(items, correlation.score_covariance(users, items))
      >>> graph = correlation.rebuild(vectors, num_neighbors=1)
      >>> correlation.neighbors(graph, 1).tolist()
      [[1], [0], [-1]]
    """
    spread = jnp.sqrt(jnp.diagonal(covariance))
    some = spread > 0
    inverse = jnp.where(some, 1.0 / jnp.where(some, spread, 1.0), 0.0)
    scaled = covariance * inverse[:, None] * inverse[None, :]  # columns may differ by orders of magnitude
    values, directions = jnp.linalg.eigh(scaled)  # not Cholesky's factor: NaN where users are fewer than columns
    factor = directions * jnp.sqrt(jnp.maximum(values, 0.0))[None, :]
    size = spread / jnp.where(jnp.any(some), jnp.max(spread), 1.0)
    return jnp.matmul(items, size[:, None] * factor, precision=jax.lax.Precision.HIGHEST)


def neighbors(correlation: jraph.GraphsTuple, num_neighbors: int) -> Int[Array, "items k"]:
    """The neighbour lists of a correlation graph.

    Args:
      correlation: from `rebuild`.
      num_neighbors: k.

    Returns:
      `[I, k]` item ids, -1 where an edge has weight 0.
    """
    ids = jnp.where(edge_weights(correlation) > 0, jnp.asarray(correlation.senders), -1)
    return ids.reshape(-1, num_neighbors)


@functools.partial(jax.jit, static_argnames=("num_neighbors", "axis"))
def share_kept(
    before: jraph.GraphsTuple, after: jraph.GraphsTuple, *, num_neighbors: int, axis: Axis = None
) -> Float[Array, ""]:
    """How much of the graph survived a rebuild.

    Args:
      before: correlation graph of the last epoch.
      after: correlation graph of this one.
      num_neighbors: k. Static.
      axis: as in `rebuild`.

    Returns:
      Scalar: the share of the edges of `after` that `before` had too; 0 when `after` is empty.
    """
    old, new = neighbors(before, num_neighbors), neighbors(after, num_neighbors)
    same = jnp.any(new[:, :, None] == old[:, None, :], axis=2) & (new >= 0)
    edges = total(jnp.sum((new >= 0).astype(jnp.float32)), axis)
    return total(jnp.sum(same.astype(jnp.float32)), axis) / jnp.maximum(edges, 1.0)
