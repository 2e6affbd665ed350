"""One step, one epoch as a jitted scan over steps, and the step that closes the self-loop between two epochs."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int

from slif_jax import correlation, losses, sampling
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.graphs import Graphs, item_features
from slif_jax.model import Encoded, Params, SlifMr, Views
from slif_jax.sampling import Batch, Interactions, TripleBatch
from slif_jax.train_state import TrainState

LOSS_PARTS = ("loss", "recommendation", "consistency", "knowledge", "l2")


class TrainingData(NamedTuple):
    """What batches are drawn from."""

    interactions: Interactions
    triples: Int[Array, "t 3"]


def training_data(dataset: Dataset) -> TrainingData:
    """Puts the training part of `dataset` on the device."""
    return TrainingData(sampling.interactions_for_sampling(dataset), jnp.asarray(dataset.triples))


def loss_fn(
    params: Params,
    model: SlifMr,
    graphs: Graphs,
    correlation_graph: jraph.GraphsTuple,
    batch: Batch,
    triples: TripleBatch | None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The whole loss of a batch.

    Args:
      params: parameters of `model`.
      model: from `make_model`.
      graphs: static graphs.
      correlation_graph: correlation graph of this epoch.
      batch: examples.
      triples: triples for the translation loss, or None without a knowledge graph.

    Returns:
      The scalar loss, and its parts by name, weighted as they enter it.

    Reference: docs/method.md, section 5.
    """
    config = model.config
    all_users, all_items = model.encode_views(params, graphs, correlation_graph)
    item_ids = jnp.concatenate([batch.positives, batch.negatives.reshape(-1)])
    final_users, final_items = _fuse_rows(model, params, (all_users, batch.users), (all_items, item_ids))
    if config.dropout:
        kept = jax.random.bernoulli(batch.rng, 1.0 - config.dropout, final_users.shape)
        final_users = jnp.where(kept, final_users / (1.0 - config.dropout), 0.0)
    total = jnp.maximum(jnp.sum(batch.weight), 1.0)

    def mean(values: Array) -> Array:
        return jnp.sum(values * batch.weight) / total

    parts = {"recommendation": mean(_recommendation_loss(final_users, final_items, batch, config))}
    parts["consistency"] = jnp.zeros(())
    if config.consistency and config.side_information and all_users.sides:
        parts["consistency"] = config.consistency_weight * _consistency_loss(
            all_users, all_items, graphs, batch, config
        )
    parts["knowledge"] = jnp.zeros(())
    if triples is not None:
        parts["knowledge"] = config.knowledge_weight * jnp.mean(_knowledge_loss(params, triples, model.num_items))
    parts["l2"] = config.l2 * mean(
        losses.l2_loss(
            params["user_embedding"][batch.users],
            params["item_embedding"][batch.positives],
            params["item_embedding"][batch.negatives[:, 0]],
        )
    )
    loss = sum(parts.values(), jnp.zeros(()))
    return loss, {"loss": loss, **parts}


def _recommendation_loss(users: Array, items: Array, batch: Batch, config: Config) -> Array:
    """`items` are the final vectors of the positives, then of the negatives, row by row."""
    positives, negatives = items[: len(users)], items[len(users) :]
    if config.loss == "softmax":
        return losses.sampled_softmax_loss(
            users,
            positives,
            negatives,
            excluded=batch.positives[:, None] == batch.negatives,
            temperature=config.softmax_temperature,
            focus=config.softmax_focus,
        )
    negatives = negatives.reshape(*batch.negatives.shape, -1)
    return losses.bpr_loss(jnp.sum(users * positives, axis=1), jnp.sum(users[:, None, :] * negatives, axis=2))


def _fuse_rows(model: SlifMr, params: Params, *wanted: tuple[Views, Array]) -> list[Array]:
    """Final vectors of some rows of several tables. Fusion works row by row, so all are fused at once.

    Of each table the shorter of the wanted rows and the whole is fused.
    """
    tables = [views.take(ids) if len(ids) < len(views.collaborative) else views for views, ids in wanted]
    fused, _ = model.fuse(params, jax.tree.map(lambda *parts: jnp.concatenate(parts), *tables))
    bounds = np.cumsum([len(table.collaborative) for table in tables])[:-1]
    final = []
    for part, table, (views, ids) in zip(jnp.split(fused, bounds), tables, wanted, strict=True):
        final.append(part[ids] if table is views else part)
    return final


@jax.named_scope("consistency")
def _consistency_loss(all_users: Views, all_items: Views, graphs: Graphs, batch: Batch, config: Config) -> Array:
    """Mean over all pairs of views, the collaborative one among them, of the first items and users of the batch."""
    rows = min(config.consistency_batch, batch.users.shape[0])
    real = batch.weight[:rows] > 0
    ids = batch.positives[:rows]
    users, items = all_users.take(batch.users[:rows]), all_items.take(ids)
    first_item, first_user = _first_of_each(ids, real), _first_of_each(batch.users[:rows], real)
    has = {name: item_features(graph).present[ids] for name, graph in graphs.features.items()}

    def contrast(pair: tuple[Array, Array, Array]) -> Array:
        anchors, others, mask = pair
        values = losses.info_nce_loss(anchors, others, mask=mask, temperature=config.consistency_temperature)
        return jnp.sum(values) / jnp.maximum(jnp.sum(mask.astype(jnp.float32)), 1.0)

    anchors, others, masks = [], [], []
    for views, first in ((users, first_user), (items, first_item)):
        sides = {"collaborative": views.collaborative, **views.sides}
        for a, b in itertools.combinations(sides, 2):
            anchors.append(sides[a])
            others.append(sides[b])
            masks.append(first & has.get(a, first) & has.get(b, first) if views is items else first)
    # A loop, not a batched product: compiled once for all pairs, and only one [rows, rows] array at a time.
    return jnp.mean(jax.lax.map(contrast, (jnp.stack(anchors), jnp.stack(others), jnp.stack(masks))))


def _first_of_each(ids: Array, real: Array) -> Array:
    """Marks one row per distinct id, so that no row is its own negative."""
    same = (ids[:, None] == ids[None, :]) & real[None, :]
    return real & (jnp.argmax(same, axis=1) == jnp.arange(len(ids)))


def _knowledge_loss(params: Params, triples: TripleBatch, num_items: int) -> Array:
    def entity(ids: Array) -> Array:
        tables = params["item_embedding"], params["entity_embedding"]
        if tables[1].shape[0] == 0:
            return tables[0][ids]
        is_item = ids < num_items
        items = tables[0][jnp.where(is_item, ids, 0)]
        others = tables[1][jnp.where(is_item, 0, ids - num_items)]
        return jnp.where(is_item[:, None], items, others)

    return losses.translation_loss(
        entity(triples.heads),
        params["translations"][triples.relations],
        entity(triples.tails),
        entity(triples.corrupted_tails),
    )


def make_train_step(
    model: SlifMr, tx: optax.GradientTransformation
) -> Callable[[TrainState, Graphs, TrainingData, Array], tuple[TrainState, dict[str, Array]]]:
    """A pure function that takes one step.

    Args:
      model: from `make_model`.
      tx: optimizer.

    Returns:
      `train_step(state, graphs, data, index)`: `index` are `[B]` positions in the training interactions, -1 for
      padding; gives the next state and the parts of the loss. Its key is `fold_in(state.rng, state.step)`.
    """
    config = model.config

    def train_step(
        state: TrainState, graphs: Graphs, data: TrainingData, index: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        batch_rng, triple_rng = jax.random.split(jax.random.fold_in(state.rng, state.step))
        shared = config.loss == "softmax"
        batch = sampling.sample_batch(
            batch_rng,
            data.interactions,
            index,
            num_negatives=config.softmax_negatives if shared else config.num_negatives,
            shared=shared,
        )
        triples = None
        if model.knowledge:
            triples = sampling.sample_triples(
                triple_rng, data.triples, num_entities=model.num_entities, batch_size=config.knowledge_batch
            )
        grads, parts = jax.grad(loss_fn, has_aux=True)(state.params, model, graphs, state.correlation, batch, triples)
        with jax.named_scope("optimizer"):
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), parts

    return train_step


def make_run_epoch(model: SlifMr, tx: optax.GradientTransformation) -> jax.stages.Wrapped:
    """A jitted function that runs a whole epoch as one `lax.scan`; the state is donated.

    Args:
      model: from `make_model`.
      tx: optimizer.

    Returns:
      `run_epoch(state, graphs, data)`: the state after the epoch, with `item_vectors` brought up to date, and the
      epoch's mean of each part of the loss.
    """
    config = model.config
    train_step = make_train_step(model, tx)

    def run_epoch(state: TrainState, graphs: Graphs, data: TrainingData) -> tuple[TrainState, dict[str, Array]]:
        order_rng = jax.random.fold_in(jax.random.fold_in(state.rng, 0x0E90C4), state.epoch)
        order = sampling.epoch_order(order_rng, data.interactions.users.shape[0], config.batch_size)

        # Only what a step changes is carried; the rest of the state is the same for all steps.
        def body(carried: tuple[Any, Any, Array], index: Array) -> tuple[tuple[Any, Any, Array], dict[str, Array]]:
            params, opt_state, step = carried
            following, parts = train_step(
                state.replace(params=params, opt_state=opt_state, step=step), graphs, data, index
            )
            return (following.params, following.opt_state, following.step), parts

        (params, opt_state, step), parts = jax.lax.scan(body, (state.params, state.opt_state, state.step), order)
        state = average_parameters(state.replace(params=params, opt_state=opt_state, step=step), config)
        examples = jnp.sum((order >= 0).astype(jnp.float32), axis=1)
        share = examples / jnp.sum(examples)
        return state.replace(epoch=state.epoch + 1), {k: jnp.sum(v * share) for k, v in parts.items()}

    return jax.jit(run_epoch, donate_argnums=0)


def average_parameters(state: TrainState, config: Config) -> TrainState:
    """Takes the epoch's parameters into their moving average.

    Args:
      state: after the steps of an epoch, `epoch` not yet counted.
      config: settings.

    Returns:
      The state with another `average`. Epoch t counts with weight 1 - min(`parameter_momentum`, t / (t + 10)), so that
      the first values, which are random, are soon forgotten.
    """
    if state.average is None:
        return state
    past = state.epoch.astype(jnp.float32)
    momentum = jnp.minimum(config.parameter_momentum, past / (past + 10.0))
    average = jax.tree.map(lambda old, new: momentum * old + (1.0 - momentum) * new, state.average, state.params)
    return state.replace(average=average)


def rebuild_is_due(epoch: int, config: Config) -> bool:
    """Whether the correlation graph is rebuilt before epoch `epoch` (counted from 0)."""
    if not config.uses_correlation() or epoch < config.correlation_start:
        return False
    return (epoch - config.correlation_start) % config.correlation_period == 0


def close_the_loop(state: TrainState, config: Config) -> tuple[TrainState, Float[Array, ""]]:
    """Rebuilds the correlation graph from the fed back item vectors.

    Args:
      state: after an epoch.
      config: settings.

    Returns:
      The state that the next epoch starts with, and the share of the correlation edges that were there before.
    """
    rebuilt = correlation.rebuild(
        state.item_vectors,
        num_neighbors=config.correlation_neighbors,
        recall_target=config.correlation_recall if config.correlation_recall < 1 else None,
    )
    kept = correlation.share_kept(state.correlation, rebuilt, num_neighbors=config.correlation_neighbors)
    return state.replace(correlation=rebuilt), kept


def feed_back(state: TrainState, encoded: Encoded, graphs: Graphs, config: Config) -> TrainState:
    """Keeps the epoch's item representations for the next rebuild.

    Items without training interactions leave zeros, so that they get no edges: what they have is not trained, and
    edges to popular items would carry it to the top of everybody's list.
    """
    found = jnp.where(graphs.warm[:, None], encoded.final.items, 0.0)
    vectors = correlation.update_item_vectors(
        state.item_vectors, found, momentum=config.correlation_momentum, first=state.epoch == 1
    )
    return state.replace(item_vectors=vectors)
