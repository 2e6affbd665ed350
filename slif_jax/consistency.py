"""Semantic consistency: what a node is by itself agrees with what each source of information says it is."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from slif_jax import losses
from slif_jax.collectives import as_varying, own_share, shard_index, take_rows_everywhere, total
from slif_jax.graphs import Graphs, item_features
from slif_jax.model import Params, SlifMr, Views
from slif_jax.sampling import Batch


@jax.named_scope("consistency")
def consistency_loss(
    params: Params, users: Views, items: Views, graphs: Graphs, batch: Batch, model: SlifMr
) -> Float[Array, ""]:
    """Contrast of the own embedding of users and items with their views, the other rows of the batch as negatives.

    The views are those of `Config.contrasted_views`: those of modalities and knowledge, whose mean `consistency_weight`
    weighs, and the collaborative one, with a weight of its own. Views take vectors from neighbours that features, the
    knowledge graph and the self-loop find; to be told from others by them, a node's vector must fit them.

    Args:
      params: parameters of `model`.
      users: views of all users.
      items: views of all items.
      graphs: static graphs: an item without a modality takes no part in the contrast with its view, nor does a view of
        zeros, as an item without triples has.
      batch: examples; their first `consistency_batch` take part, each distinct user and item once.
      model: from `make_model`.

    Returns:
      The weighed sum of the means over rows.

    Reference: semantic consistency learning of Guo et al., "SLIF-MR", 2025; between the layers of a node, in the manner
    of Lin et al., "Improving Graph Collaborative Filtering with Neighborhood-enriched Contrastive Learning", WWW 2022,
    eq. (5). docs/method.md, section 5.
    """
    config, axis = model.config, model.axis
    weights = config.contrasted_views(model.side_names)
    rows = min(config.consistency_batch, batch.users.shape[0])
    real, ids = batch.weight[:rows] > 0, batch.positives[:rows]
    take_users = functools.partial(take_rows_everywhere, ids=batch.users[:rows], axis=axis)
    take_items = functools.partial(take_rows_everywhere, ids=ids, axis=axis)

    def contrast(pair: tuple[Array, Array, Array]) -> Array:
        anchors, view, mask = pair
        anchors = own_share(anchors, axis)
        values = losses.info_nce_loss(
            anchors,
            view,
            mask=mask,
            temperature=config.consistency_temperature,
            first=shard_index(axis) * len(anchors),
        )
        return jnp.sum(values) / jnp.maximum(jnp.sum(mask.astype(jnp.float32)), 1.0)

    has = {
        name: take_items(item_features(graph).present.astype(jnp.float32)) > 0
        for name, graph in graphs.features.items()
        if name in weights
    }
    first_user, first_item = _first_of_each(batch.users[:rows], real), _first_of_each(ids, real)
    found = {name: (take_users(_view(users, name)), take_items(_view(items, name))) for name in weights}
    own = (take_users(params["user_embedding"]), take_items(params["item_embedding"]))
    found, own = as_varying((found, own), axis)  # else the loop below would sum gradients for every pair
    pairs = []
    for name, (of_users, of_items) in found.items():
        pairs.append((own[0], of_users, first_user & _is_something(of_users)))
        pairs.append((own[1], of_items, first_item & _is_something(of_items) & has.get(name, first_item)))
    factors = jnp.repeat(jnp.asarray([weights[name] / 2 for name in found], jnp.float32), 2)
    # A loop, not a batched product: compiled once for all pairs, and only one [rows, rows] array at a time.
    values = jax.lax.map(contrast, jax.tree.map(lambda *arrays: jnp.stack(arrays), *pairs))
    return total(jnp.sum(values * factors), axis)


def _view(views: Views, name: str) -> Array:
    return views.collaborative if name == "collaborative" else views.sides[name]


def _is_something(view: Float[Array, "b d"]) -> Bool[Array, " b"]:
    """Rows that anything came to; from a view of zeros an embedding would only be driven away from all others."""
    return jnp.any(view != 0, axis=1)


def _first_of_each(ids: Int[Array, " b"], real: Bool[Array, " b"]) -> Bool[Array, " b"]:
    """Marks one row per distinct id, so that no row is its own negative."""
    same = (ids[:, None] == ids[None, :]) & real[None, :]
    return real & (jnp.argmax(same, axis=1) == jnp.arange(len(ids)))
