"""The compiled functions of a training, on one device or on a mesh: the same pure functions, mapped or not."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from slif_jax.blend import TUNING, Lists, score_lists, tune_weights, with_linear_weights, with_weights
from slif_jax.checkpoint import from_first
from slif_jax.collectives import gather_rows
from slif_jax.data import Dataset
from slif_jax.evaluate import (
    Evaluation,
    RankingTask,
    TaskArrays,
    evaluate_vectors,
    evaluation_of,
    list_block,
    list_width,
)
from slif_jax.graphs import Graphs
from slif_jax.meshes import built_on_host, check_divides
from slif_jax.model import Encoded, SlifMr, Vectors
from slif_jax.placement import place, places
from slif_jax.sharding import Sharder
from slif_jax.train_state import TrainState, make_optimizer
from slif_jax.train_step import EpochLosses, TrainingData, close_the_loop, feed_back, make_epoch, make_run_epoch


class MeshProgram(NamedTuple):
    """A training's arrays on a mesh, and the function of an epoch over them: for tests, studies and importers."""

    sharder: Sharder
    model: SlifMr
    """For one device: it counts the rows that a device has."""
    graphs: Graphs
    data: TrainingData
    run_epoch: jax.stages.Wrapped
    """`run_epoch(state, graphs, data)`, jitted; the state is donated."""


Tuner = Callable[[TrainState, Encoded], tuple[TrainState, Encoded]]


class Engine(NamedTuple):
    """What a training does between two looks at the clock. States are as `put` gives them."""

    put: Callable[[TrainState], TrainState]
    """A state as `init_train_state` makes it, brought to the devices."""
    get: Callable[[TrainState], TrainState]
    """Undoes `put`: what is saved is the same on every mesh."""
    run_epoch: Callable[[TrainState], tuple[TrainState, EpochLosses]]
    """An epoch of steps; the state is donated."""
    close_the_loop: Callable[[TrainState], tuple[TrainState, Array]]
    """The rebuild of the correlation graph, and the share of its edges that were there before."""
    encode: Callable[[TrainState], Encoded]
    feed_back: Callable[[TrainState, Encoded], TrainState]
    evaluate: Callable[[Encoded, str], Evaluation]
    """Full ranking of a split."""
    linear_names: tuple[str, ...] = ()
    """The linear models beside the vectors, in the order of their weights."""
    tune: Tuner | None = None
    """Tunes the weights of the linear models on validation; None where that is not to be done."""
    program: MeshProgram | None = None
    """On a mesh, what `run_epoch` runs."""


def make_engine(
    dataset: Dataset,
    model: SlifMr,
    graphs: Graphs,
    data: TrainingData,
    tasks: dict[str, RankingTask],
    state: TrainState,
    mesh: Mesh | None = None,
) -> Engine:
    """Compiles the functions of a training.

    Args:
      dataset: loaded data.
      model: from `make_model`.
      graphs: from `build_graphs`.
      data: from `training_data`; for a mesh it may stay on the host.
      tasks: from `ranking_task`, by split.
      state: from `init_train_state`; its values are not used.
      mesh: devices to share the work; None for the default device alone.

    Returns:
      `Engine`.

    Raises:
      ValueError: if a batch cannot be shared evenly by the devices of the mesh.
    """
    if mesh is None:
        return _on_one_device(model, graphs, data, tasks, state)
    return _on_mesh(dataset, model, graphs, data, tasks, state, mesh)


def _on_one_device(
    model: SlifMr, graphs: Graphs, data: TrainingData, tasks: dict[str, RankingTask], state: TrainState
) -> Engine:
    config = model.config
    encode = jax.jit(model.encode).lower(state.serving_params, graphs, state.correlation).compile()
    run_epoch = make_run_epoch(model, make_optimizer(config)).lower(state, graphs, data).compile()
    return Engine(
        put=lambda state: state,
        get=lambda state: state,
        run_epoch=lambda state: run_epoch(state, graphs, data),
        close_the_loop=lambda state: close_the_loop(state, graphs, config),
        encode=lambda state: encode(state.serving_params, graphs, state.correlation),
        feed_back=lambda state, encoded: feed_back(state, encoded, graphs, config),
        evaluate=lambda encoded, split: evaluate_vectors(encoded.ranked, tasks[split]),
        linear_names=model.linear_names,
        tune=_tuner_on_one_device(model, graphs, tasks.get(TUNING)),
    )


def _tuner_on_one_device(model: SlifMr, graphs: Graphs, task: RankingTask | None) -> Tuner | None:
    if task is None:
        return None
    score = jax.jit(functools.partial(score_lists, block=task.block))

    def lists(encoded: Encoded) -> Lists:
        return jax.tree.map(np.asarray, score(encoded.ranked, encoded.final.users, graphs.linear, task.arrays))

    weigh = jax.jit(lambda encoded, weights: with_weights(encoded, graphs.linear, weights))
    return _tuner(model, lists, jnp.asarray, weigh)


def _tuner(
    model: SlifMr,
    lists: Callable[[Encoded], Lists],
    put: Callable[[np.ndarray], Array],
    weigh: Callable[[Encoded, Array], Encoded],
) -> Tuner:
    given = model.config.linear_weights()
    start = np.array([given[name] for name in model.linear_names])

    def tune(state: TrainState, encoded: Encoded) -> tuple[TrainState, Encoded]:
        found = tune_weights(lists(encoded), start)
        weights = put(np.asarray(from_first(found.tolist()), np.float32))
        return with_linear_weights(state, weights), weigh(encoded, weights)

    return tune


def mesh_program(
    dataset: Dataset, model: SlifMr, graphs: Graphs, data: TrainingData, state: TrainState, mesh: Mesh
) -> MeshProgram:
    """Shares a training out over a mesh.

    Args:
      dataset: loaded data.
      model: from `make_model`.
      graphs: from `build_graphs`, for this mesh or for the default device.
      data: from `training_data`; it may be on the host.
      state: from `init_train_state`; its values are not used.
      mesh: the devices.

    Returns:
      `MeshProgram`.

    Raises:
      ValueError: if a batch cannot be shared evenly by the devices.
    """
    config = model.config
    sizes = {"batch_size": config.batch_size}
    if config.contrasted_views(model.side_names):
        sizes["consistency_batch"] = min(config.consistency_batch, config.batch_size)
    if model.knowledge:
        sizes["knowledge_batch"] = config.knowledge_batch
    check_divides(mesh, sizes)
    placements = place(dataset, mesh.size)
    sharder = Sharder(mesh, placements)
    local = per_device_model(model, sharder)
    with built_on_host(mesh):  # no part of one device passes through another
        sharded_graphs = sharder.graphs(graphs)
        sharded_data = sharder.data(data.replace(places=places(placements)))
    spec = sharder.state_spec(state)
    epoch = jax.shard_map(
        make_epoch(local, make_optimizer(config)),
        mesh=mesh,
        in_specs=(spec, sharder.graphs_spec(sharded_graphs), sharder.data_spec(sharded_data)),
        out_specs=(spec, PartitionSpec()),
    )
    return MeshProgram(sharder, local, sharded_graphs, sharded_data, jax.jit(epoch, donate_argnums=0))


def per_device_model(model: SlifMr, sharder: Sharder) -> SlifMr:
    """The model as one device of a mesh runs it."""
    at = sharder.placements
    return model.clone(
        num_users=at.users.rows_each,
        num_items=at.items.rows_each,
        num_entities=at.entities.rows_each,
        axis=sharder.axis,
    )


def _on_mesh(
    dataset: Dataset,
    model: SlifMr,
    graphs: Graphs,
    data: TrainingData,
    tasks: dict[str, RankingTask],
    state: TrainState,
    mesh: Mesh,
) -> Engine:
    config = model.config
    program = mesh_program(dataset, model, graphs, data, state, mesh)
    sharder, local, graphs = program.sharder, program.model, program.graphs
    rows, whole = sharder.rows, PartitionSpec()
    spec, graphs_spec = sharder.state_spec(state), sharder.graphs_spec(graphs)

    def mapped(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> jax.stages.Wrapped:
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs))

    rebuild = mapped(
        lambda state, graphs: close_the_loop(state, graphs, config, sharder.axis), (spec, graphs_spec), (spec, whole)
    )
    encode = mapped(local.encode, (spec.params, graphs_spec, rows), rows)
    feed = mapped(
        lambda state, encoded, graphs: feed_back(state, encoded, graphs, config, sharder.axis),
        (spec, rows, graphs_spec),
        spec,
    )
    item_rows = sharder.replicate(jnp.asarray(sharder.placements.items.rows))
    specs: Any = TaskArrays._make([*[rows] * 5, whole, whole])

    def evaluator(task: RankingTask) -> Callable[[Encoded], Evaluation]:
        arrays, order = sharder.task(task)

        def rank(final: Vectors, arrays: TaskArrays, item_rows: Array) -> Array:
            vectors = Vectors(final.users, gather_rows(final.items, sharder.axis)[item_rows])
            starts = jnp.arange(0, arrays.users.shape[0], task.block, dtype=jnp.int32)
            one = functools.partial(list_block, width=list_width(task), block=task.block)
            hits = jax.lax.map(lambda start: one(vectors, arrays, start).hits, starts)
            return hits.reshape(-1, hits.shape[-1])

        ranked = mapped(rank, (rows, specs, whole), rows)
        return lambda encoded: evaluation_of(task, sharder.on_host(ranked(encoded.ranked, arrays, item_rows))[order])

    def tuner(task: RankingTask) -> Tuner:
        arrays, order = sharder.task(task)
        linear_spec = graphs_spec.linear

        def score(ranked: Vectors, users: Array, linear: Any, arrays: TaskArrays, item_rows: Array) -> Lists:
            vectors = Vectors(ranked.users, gather_rows(ranked.items, sharder.axis)[item_rows])
            return score_lists(vectors, users, linear, arrays, block=task.block)

        scored = mapped(score, (rows, rows, linear_spec, specs, whole), rows)
        weigh = mapped(with_weights, (rows, linear_spec, whole), rows)

        def lists(encoded: Encoded) -> Lists:
            found = scored(encoded.ranked, encoded.final.users, graphs.linear, arrays, item_rows)
            return jax.tree.map(lambda x: sharder.on_host(x)[order], found)

        return _tuner(model, lists, sharder.replicate, lambda encoded, weights: weigh(encoded, graphs.linear, weights))

    evaluators = {split: evaluator(task) for split, task in tasks.items() if split != TUNING}
    return Engine(
        put=sharder.state,
        get=sharder.state_on_host,
        run_epoch=lambda state: program.run_epoch(state, graphs, program.data),
        close_the_loop=lambda state: rebuild(state, graphs),
        encode=lambda state: encode(state.serving_params, graphs, state.correlation),
        feed_back=lambda state, encoded: feed(state, encoded, graphs),
        evaluate=lambda encoded, split: evaluators[split](encoded),
        linear_names=model.linear_names,
        tune=tuner(tasks[TUNING]) if TUNING in tasks else None,
        program=program,
    )
