"""One step, one epoch as a jitted scan over steps, and the step that closes the self-loop between two epochs."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int

from slif_jax import correlation, losses, sampling
from slif_jax.collectives import (
    Axis,
    complete_gradients,
    num_shards,
    own_share,
    shard_index,
    take_rows,
    take_rows_everywhere,
    total,
    tree_norms,
)
from slif_jax.config import Config
from slif_jax.consistency import consistency_loss
from slif_jax.data import Dataset
from slif_jax.graphs import Graphs
from slif_jax.linear import items_beside
from slif_jax.model import Encoded, Params, SlifMr, Views
from slif_jax.placement import Places
from slif_jax.sampling import Batch, Interactions, TripleBatch
from slif_jax.train_state import TrainState, average_parameters, is_table

LOSS_PARTS = ("loss", "recommendation", "consistency", "knowledge", "l2")
NORMS = ("gradient_norm", "parameter_norm")
"""Euclidean norms over all parameters together; of the gradient before it is clipped."""


class EpochLosses(NamedTuple):
    """What an epoch says of its steps."""

    means: dict[str, Float[Array, ""]]
    """Of each of `LOSS_PARTS` and `NORMS`, over the examples."""
    failed_step: Int[Array, ""]
    """The first step, from 0, whose loss or gradient is not finite, or -1; `at_failure` are its parts and norms."""
    at_failure: dict[str, Float[Array, ""]]


class TrainingData(flax.struct.PyTreeNode):
    """What batches are drawn from; on a mesh its interactions and triples are dealt out (`Sharder.data`).

    The sizes are static, as no device can tell them from its share. Fewer examples than there are cut an epoch short.
    """

    interactions: Interactions
    triples: Any
    """`[T, 3]` int32 head, relation, tail; like the leaves of `TrainState` without a type."""
    num_examples: int = flax.struct.field(pytree_node=False)
    num_triples: int = flax.struct.field(pytree_node=False)
    places: Places | None = None
    """Where the rows are, when several devices share them in another order; the ids here are the data set's."""


def training_data(dataset: Dataset, config: Config, *, on_host: bool = False) -> TrainingData:
    """What `config` needs of the training part of `dataset`, on the default device; `on_host`, for a mesh, on none."""
    interactions = sampling.interactions_for_sampling(dataset, exact_negatives=config.loss == "bpr")
    triples = dataset.triples
    data = TrainingData(interactions, triples, num_examples=len(dataset.train), num_triples=len(triples))
    return data if on_host else jax.device_put(data)


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
    config, axis = model.config, model.axis
    all_users, all_items = model.encode_views(params, graphs, correlation_graph)
    shared = config.loss == "softmax"
    negative_ids = batch.negatives.reshape(-1)
    (users,), (positives, negatives) = _fuse_rows(
        model,
        params,
        (all_users, [_Wanted(batch.users)]),
        (all_items, [_Wanted(batch.positives), _Wanted(negative_ids, shared)]),
    )
    if config.dropout:
        users = _drop_entries(batch.rng, users, config.dropout, axis)
    weight = own_share(batch.weight, axis)
    count = jnp.maximum(jnp.sum(batch.weight), 1.0)

    def mean(values: Array) -> Array:
        return total(jnp.sum(values * weight), axis) / count

    parts = {"recommendation": mean(_recommendation_loss(users, positives, negatives, batch, model))}
    parts["consistency"] = jnp.zeros(())
    if config.contrasted_views(model.side_names):
        parts["consistency"] = consistency_loss(params, all_users, all_items, graphs, batch, model)
    parts["knowledge"] = jnp.zeros(())
    if triples is not None:
        knowledge = _knowledge_loss(params, triples, model)
        parts["knowledge"] = config.knowledge_weight * total(jnp.sum(knowledge), axis) / len(triples.heads)
    user_l2, item_l2 = losses.l2_loss(params["user_embedding"]), losses.l2_loss(params["item_embedding"])
    parts["l2"] = config.l2 * mean(
        take_rows(user_l2, batch.users, axis)
        + take_rows(item_l2, batch.positives, axis)
        + _take(item_l2, _Wanted(batch.negatives[:, 0], shared), axis)
    )
    loss = sum(parts.values(), jnp.zeros(()))
    return loss, {"loss": loss, **parts}


def _drop_entries(rng: Array, x: Array, share: float, axis: Axis) -> Array:
    """Dropout whose mask depends on the row's number in the batch, and not on the device that has it."""
    rows = shard_index(axis) * len(x) + jnp.arange(len(x))
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng, rows)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - share, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1.0 - share), 0.0)


def _recommendation_loss(users: Array, positives: Array, negatives: Array, batch: Batch, model: SlifMr) -> Array:
    """`negatives` are those of all examples, or of each one in turn."""
    config = model.config
    if config.loss == "softmax":
        return losses.sampled_softmax_loss(
            users,
            positives,
            negatives,
            excluded=own_share(batch.positives, model.axis)[:, None] == batch.negatives,
            temperature=config.softmax_temperature,
            focus=config.softmax_focus,
        )
    negatives = negatives.reshape(len(users), -1, negatives.shape[1])
    return losses.bpr_loss(jnp.sum(users * positives, axis=1), jnp.sum(users[:, None, :] * negatives, axis=2))


class _Wanted(NamedTuple):
    """Rows of a table that a step uses: each device's share of them, or all of them on every device."""

    ids: Array
    everywhere: bool = False


def _take(x: Array, wanted: _Wanted, axis: Axis) -> Array:
    return (take_rows_everywhere if wanted.everywhere else take_rows)(x, wanted.ids, axis)


def _fuse_rows(model: SlifMr, params: Params, *tables: tuple[Views, list[_Wanted]]) -> list[list[Array]]:
    """Final vectors of some rows of several tables. Fusion works row by row, so all are fused at once.

    Of each table the shorter of the wanted rows and the whole is fused.
    """
    axis, rows = model.axis, []
    whole = [len(views.collaborative) * num_shards(axis) <= sum(len(w.ids) for w in wanted) for views, wanted in tables]
    for (views, wanted), all_rows in zip(tables, whole, strict=True):
        taken = [jax.tree.map(functools.partial(_take, wanted=w, axis=axis), views) for w in wanted if not all_rows]
        rows.extend(taken or [views])
    fused, _ = model.fuse(params, jax.tree.map(lambda *parts: jnp.concatenate(parts), *rows))
    bounds = np.cumsum([len(part.collaborative) for part in rows])[:-1]
    parts = iter(jnp.split(fused, bounds))
    final = []
    for (_, wanted), all_rows in zip(tables, whole, strict=True):
        table = next(parts) if all_rows else None
        final.append([next(parts) if table is None else _take(table, w, axis) for w in wanted])
    return final


def _knowledge_loss(params: Params, triples: TripleBatch, model: SlifMr) -> Array:
    axis = model.axis
    entities = jnp.concatenate([params["item_embedding"], params["entity_embedding"]])
    return losses.translation_loss(
        take_rows(entities, triples.heads, axis),
        params["translations"][own_share(triples.relations, axis)],
        take_rows(entities, triples.tails, axis),
        take_rows(entities, triples.corrupted_tails, axis),
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
      padding; gives the next state, and the parts of the loss and the norms. Its key is
      `fold_in(state.rng, state.step)`.
    """
    config, axis = model.config, model.axis

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
            axis=axis,
        )
        triples = None
        if model.knowledge:
            entities = model.num_entities if data.places is None else data.places.entities.shape[0]
            triples = sampling.sample_triples(
                triple_rng,
                data.triples,
                num_triples=data.num_triples,
                num_entities=entities,
                batch_size=config.knowledge_batch,
                axis=axis,
            )
        if data.places is not None:
            batch, triples = data.places.of_batch(batch), data.places.of_triples(triples)
        grads, parts = jax.grad(loss_fn, has_aux=True)(state.params, model, graphs, state.correlation, batch, triples)
        shared_out = jax.tree.map_with_path(lambda path, _: is_table(path), grads)
        grads = complete_gradients(grads, shared_out, axis)
        with jax.named_scope("optimizer"):
            gradient_norm, parameter_norm = tree_norms((grads, state.params), shared_out, axis)
            parts |= {"gradient_norm": gradient_norm, "parameter_norm": parameter_norm}
            if config.clip_norm:
                shrink = jnp.minimum(1.0, config.clip_norm / jnp.maximum(gradient_norm, 1e-30))
                grads = jax.tree.map(lambda g: g * shrink, grads)
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), parts

    return train_step


def examples_of_step(state: TrainState, data: TrainingData, config: Config, step: Int[Array, ""]) -> Int[Array, " b"]:
    """The positions in the training interactions that step `step` of the coming epoch takes; -1 for padding."""
    rng = jax.random.fold_in(jax.random.fold_in(state.rng, 0x0E90C4), state.epoch)
    return sampling.examples_of_step(rng, step, num_examples=data.num_examples, batch_size=config.batch_size)


def make_epoch(
    model: SlifMr, tx: optax.GradientTransformation
) -> Callable[[TrainState, Graphs, TrainingData], tuple[TrainState, EpochLosses]]:
    """A pure function that runs a whole epoch as one `lax.scan` over steps.

    Args:
      model: from `make_model`; with an axis, the function is for one device of `jax.shard_map` or `jax.pmap`.
      tx: optimizer.

    Returns:
      `epoch(state, graphs, data)`: the state after the epoch, and what its steps lost.
    """
    config = model.config
    train_step = make_train_step(model, tx)

    def epoch(state: TrainState, graphs: Graphs, data: TrainingData) -> tuple[TrainState, EpochLosses]:
        # Only what a step changes is carried; the rest of the state is the same for all steps.
        def body(carried: tuple[Any, Any, Array], number: Array) -> tuple[tuple[Any, Any, Array], Any]:
            params, opt_state, step = carried
            index = examples_of_step(state, data, config, number)
            following, parts = train_step(
                state.replace(params=params, opt_state=opt_state, step=step), graphs, data, index
            )
            examples = jnp.sum((index >= 0).astype(jnp.float32))
            return (following.params, following.opt_state, following.step), (parts, examples)

        numbers = jnp.arange(sampling.num_steps(data.num_examples, config.batch_size), dtype=jnp.int32)
        carried, (parts, examples) = jax.lax.scan(body, (state.params, state.opt_state, state.step), numbers)
        params, opt_state, step = carried
        state = average_parameters(state.replace(params=params, opt_state=opt_state, step=step), config)
        share = examples / jnp.sum(examples)
        finite = functools.reduce(jnp.logical_and, (jnp.isfinite(values) for values in parts.values()))
        first = jnp.argmin(finite)  # 0 where all are finite
        return state.replace(epoch=state.epoch + 1), EpochLosses(
            means={name: jnp.sum(values * share) for name, values in parts.items()},
            failed_step=jnp.where(finite[first], -1, first).astype(jnp.int32),
            at_failure={name: jnp.where(finite[first], values[-1], values[first]) for name, values in parts.items()},
        )

    return epoch


def make_run_epoch(model: SlifMr, tx: optax.GradientTransformation) -> jax.stages.Wrapped:
    """`make_epoch`, jitted; the state is donated."""
    return jax.jit(make_epoch(model, tx), donate_argnums=0)


def rebuild_is_due(epoch: int, config: Config) -> bool:
    """Whether the correlation graph is rebuilt before epoch `epoch` (counted from 0)."""
    start = max(1, config.correlation_start)  # nothing is fed back before the first epoch
    return config.uses_correlation() and epoch >= start and (epoch - start) % config.correlation_period == 0


def close_the_loop(
    state: TrainState, graphs: Graphs, config: Config, axis: Axis = None
) -> tuple[TrainState, Float[Array, ""]]:
    """Rebuilds the correlation graph from the fed back item vectors.

    Args:
      state: after an epoch.
      graphs: static graphs.
      config: settings.
      axis: mesh axis over which the items are shared.

    Returns:
      The state that the next epoch starts with, and the share of the correlation edges that were there before.
    """
    vectors = state.item_vectors
    if config.correlates_scores():
        vectors = correlation.in_scores(items_beside(vectors, graphs.linear), state.score_covariance)
        vectors = jnp.where(graphs.warm[:, None], vectors, 0.0)
    rebuilt = correlation.rebuild(
        vectors,
        num_neighbors=config.correlation_neighbors,
        mutual=config.correlation_mutual,
        recall_target=config.correlation_recall if config.correlation_recall < 1 else None,
        axis=axis,
    )
    kept = correlation.share_kept(state.correlation, rebuilt, num_neighbors=config.correlation_neighbors, axis=axis)
    return state.replace(correlation=rebuilt), kept


def feed_back(state: TrainState, encoded: Encoded, graphs: Graphs, config: Config, axis: Axis = None) -> TrainState:
    """Keeps the epoch's item representations for the next rebuild, and how users' scores make use of them.

    Items without training interactions leave zeros, so that they get no edges: what they have is not trained, and
    edges to popular items would carry it to the top of everybody's list.
    """
    found = jnp.where(graphs.warm[:, None], encoded.final.items, 0.0)
    average = functools.partial(
        correlation.moving_average, momentum=config.correlation_momentum, first=state.epoch == 1
    )
    state = state.replace(item_vectors=average(state.item_vectors, found))
    if not config.correlates_scores():
        return state
    warm = jnp.where(graphs.warm[:, None], encoded.ranked.items, 0.0)
    covariance = correlation.score_covariance(encoded.ranked.users, warm, axis)
    return state.replace(score_covariance=average(state.score_covariance, covariance))
