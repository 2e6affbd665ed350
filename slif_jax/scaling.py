"""How long the parts of a training take on a mesh, what its devices send each other, and what each of them holds."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from slif_jax.collectives import total
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.engine import MeshProgram, make_engine
from slif_jax.evaluate import ranking_task
from slif_jax.graphs import build_graphs
from slif_jax.hlo import Collective, collectives
from slif_jax.meshes import built_on_host
from slif_jax.model import make_model
from slif_jax.sampling import num_steps
from slif_jax.train_state import init_train_state, make_optimizer
from slif_jax.train_step import training_data

_DTYPES = {"bf16": jnp.bfloat16, "s32": jnp.int32, "u32": jnp.uint32}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One training on one mesh. Seconds are medians; bytes are those of one device."""

    mesh: str
    devices: int
    users: int
    items: int
    interactions: int
    steps: int
    step_seconds: float
    """Of a whole step: an epoch's time by its steps."""
    propagate_seconds: float
    """Of a step: the views and their gradient, with the exchanges in them."""
    update_seconds: float
    """Of a step: the optimizer."""
    exchange_seconds: float
    """Of a step: what it exchanges, alone and without anything to overlap with. Part of the others."""
    rebuild_seconds: float
    evaluate_seconds: float
    sent_bytes: float
    """Of a step, if the devices form a ring."""
    argument_bytes: int
    """Tables, moments, graphs and interactions, from XLA's analysis of the program of an epoch."""
    temporary_bytes: int
    """What that program needs beside them."""

    @property
    def loss_seconds(self) -> float:
        """Of a step: what is neither propagation nor update: batches, fusion, losses and their gradient."""
        return max(0.0, self.step_seconds - self.propagate_seconds - self.update_seconds)

    @property
    def throughput(self) -> float:
        """Interactions per second of an epoch of steps."""
        return self.interactions / (self.steps * self.step_seconds)


def measure(dataset: Dataset, config: Config, mesh: Mesh, *, name: str, rounds: int = 3) -> Measurement:
    """Trains some epochs on a mesh with the clock in hand.

    Args:
      dataset: loaded data.
      config: settings.
      mesh: the devices.
      name: how the mesh was asked for.
      rounds: how often each part is timed, after a first time that does not count.

    Returns:
      `Measurement`.

    Raises:
      ValueError: if a batch cannot be shared evenly by the devices.
    """
    with built_on_host(mesh):
        return _measure(dataset, config, mesh, name=name, rounds=rounds)


def _measure(dataset: Dataset, config: Config, mesh: Mesh, *, name: str, rounds: int) -> Measurement:
    graphs, model = build_graphs(dataset, config, mesh), make_model(dataset, config)
    state, data = init_train_state(model, graphs, config, mesh), training_data(dataset, config, on_host=True)
    tasks = {"valid": ranking_task(dataset, "valid", config)}
    engine = make_engine(dataset, model, graphs, data, tasks, state, mesh)
    program = engine.program
    assert program is not None
    placed = engine.put(state)
    compiled = program.run_epoch.lower(placed, program.graphs, program.data).compile()
    in_step = [c for c in collectives(compiled) if c.in_loop]
    analysis = compiled.memory_analysis()
    assert analysis is not None
    steps = num_steps(len(dataset.train), config.batch_size)

    # An epoch donates its state, so each one starts from what the one before left.
    held = [engine.put(state)]

    def epoch() -> Any:
        held[0], parts = compiled(held[0], program.graphs, program.data)
        return parts

    step_seconds = _median(epoch, rounds) / steps
    encoded = engine.encode(placed)
    fed = engine.feed_back(placed, encoded)
    return Measurement(
        mesh=name,
        devices=mesh.size,
        users=dataset.num_users,
        items=dataset.num_items,
        interactions=len(dataset.train),
        steps=steps,
        step_seconds=step_seconds,
        propagate_seconds=_median(_propagation(program, placed), rounds),
        update_seconds=_median(_update(program, placed, config), rounds),
        exchange_seconds=_median(_replay(program, in_step), rounds) if mesh.size > 1 else 0.0,
        rebuild_seconds=_median(lambda: engine.close_the_loop(fed), rounds),
        evaluate_seconds=_median(lambda: engine.evaluate(encoded, "valid"), rounds),
        sent_bytes=sum(c.sent_bytes(mesh.size) for c in in_step) if mesh.size > 1 else 0.0,
        argument_bytes=int(analysis.argument_size_in_bytes),
        temporary_bytes=int(analysis.temp_size_in_bytes),
    )


def efficiency(first: Measurement, other: Measurement, *, weak: bool) -> float:
    """How much of what more devices could give is there.

    Args:
      first: on the fewest devices.
      other: on more.
      weak: whether the data grew with the devices; else they are the same.

    Returns:
      1 where twice the devices take half the time, or with twice the data as long.
    """
    ideal = 1.0 if weak else first.devices / other.devices
    return ideal * first.step_seconds * first.steps / (other.step_seconds * other.steps)


def _median(run: Callable[[], Any], rounds: int) -> float:
    jax.block_until_ready(run())
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _mapped(program: MeshProgram, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> jax.stages.Wrapped:
    mapped = jax.shard_map(function, mesh=program.sharder.mesh, in_specs=in_specs, out_specs=out_specs)
    return jax.jit(mapped)


def _propagation(program: MeshProgram, state: Any) -> Callable[[], Any]:
    sharder, model = program.sharder, program.model
    spec = sharder.state_spec(state)

    def gradient(params: Any, graphs: Any, correlation: Any) -> Any:
        def length(params: Any) -> Any:
            views = jax.tree.leaves(model.encode_views(params, graphs, correlation))
            return total(sum((jnp.vdot(view, view) for view in views), jnp.zeros(())), sharder.axis)

        return jax.grad(length)(params)

    in_specs = (spec.params, sharder.graphs_spec(program.graphs), sharder.rows)
    run = _mapped(program, gradient, in_specs, spec.params)
    return lambda: run(state.params, program.graphs, state.correlation)


def _update(program: MeshProgram, state: Any, config: Config) -> Callable[[], Any]:
    spec, tx = program.sharder.state_spec(state), make_optimizer(config)
    specs = (spec.params, spec.opt_state)
    run = _mapped(program, lambda params, opt_state: tx.update(params, opt_state, params), specs, specs)
    return lambda: run(state.params, state.opt_state)


def _replay(program: MeshProgram, in_step: list[Collective]) -> Callable[[], Any]:
    """The exchanges of a step on arrays of zeros, one after the other."""
    axis, devices = program.sharder.axis, program.sharder.mesh.size

    def exchange(zero: Any) -> Any:
        # Each takes in a number of the one before, so that none is left out and none runs beside another.
        carried = zero[0]
        for collective in in_step:
            for shape, name in zip(collective.shapes, collective.dtypes, strict=True):
                start = carried.astype(_DTYPES.get(name, jnp.float32))
                match collective.kind if shape else "all-reduce":
                    case "all-gather":
                        x = jnp.zeros((shape[0] // devices, *shape[1:]), start.dtype) + start
                        x = jax.lax.all_gather(x, axis, tiled=True)
                    case "reduce-scatter":
                        x = jnp.zeros((shape[0] * devices, *shape[1:]), start.dtype) + start
                        x = jax.lax.psum_scatter(x, axis, tiled=True)
                    case _:
                        x = jax.lax.psum(jnp.zeros(shape, start.dtype) + start, axis)
                carried = carried + 0.0 * x.reshape(-1)[0].astype(carried.dtype)
        return carried[None]

    rows = PartitionSpec(axis)
    run = _mapped(program, exchange, rows, rows)
    zeros = program.sharder.assemble(lambda _: jnp.zeros(1))
    return lambda: run(zeros)
