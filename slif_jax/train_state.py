"""Everything that changes while training, as arrays only: it can be donated, saved, sharded and compared."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from slif_jax import correlation as correlation_lib
from slif_jax.config import Config
from slif_jax.graphs import Graphs
from slif_jax.model import SlifMr

TABLES: tuple[str, ...] = ("user_embedding", "item_embedding", "entity_embedding")
"""Parameters whose rows are users, items, and entities that are no items."""


def table_of(path: Any) -> str | None:
    """The name in `TABLES` of what stands at a path of `jax.tree.map_with_path`, in parameters or optimizer moments."""
    names = [getattr(key, "key", None) for key in path]
    return next((name for name in names if name in TABLES), None)


def is_table(path: Any) -> bool:
    """Whether the rows of what stands at a path are nodes."""
    return table_of(path) is not None


class TrainState(flax.struct.PyTreeNode):
    """The state between two epochs. A step's key is `fold_in(rng, step)`.

    The leaves are arrays, or what JAX puts in their place (shapes, shardings): hence no types here.
    """

    step: Any
    """int32 scalar."""
    epoch: Any
    """int32 scalar, epochs finished."""
    params: Any
    opt_state: Any
    average: Any
    """Moving average of `params` over the epochs; None with `parameter_momentum` 0."""
    rng: Any
    """A new-style key."""
    correlation: Any
    """`jraph.GraphsTuple`: S of the epoch that was last run."""
    item_vectors: Any
    """`[I, D]` float32: Z, what the next rebuild is fed with."""
    score_covariance: Any
    """`[D + r, D + r]` float32, of users' vectors with the r columns of the linear models: by it the next rebuild
    compares items in the scores that they get. None where it compares vectors, or there is no rebuild."""

    @property
    def serving_params(self) -> Any:
        """What items and users are encoded with outside of a step: the average, or the parameters themselves."""
        return self.params if self.average is None else self.average


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam, as the field uses it; L2 is part of the loss. `accumulate_steps`: it sees the mean of several gradients."""
    adam = optax.adam(config.learning_rate)
    if config.accumulate_steps == 1:
        return adam
    return optax.MultiSteps(adam, every_k_schedule=config.accumulate_steps).gradient_transformation()


def init_train_state(model: SlifMr, graphs: Graphs, config: Config, mesh: Mesh | None = None) -> TrainState:
    """The state before the first epoch.

    Args:
      model: from `make_model`.
      graphs: from `build_graphs`.
      config: settings; `seed` fixes every number of the run.
      mesh: devices that will share the state; they share the search for the first correlation graph's edges, if any.

    Returns:
      `TrainState` on the default device; for a mesh call it inside `meshes.built_on_host`.
    """
    init_rng, rng = jax.random.split(jax.random.key(config.seed))
    kind = config.correlation_warm_up if config.uses_correlation() else "empty"
    correlation = correlation_lib.warm_up(
        graphs,
        model.num_items,
        kind=kind,
        num_neighbors=config.correlation_neighbors,
        mutual=config.correlation_mutual,
        mesh=mesh,
    )
    params = model.init_params(init_rng, graphs, correlation)
    columns = config.width + sum(linear.users.shape[1] for linear in graphs.linear.values())
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        epoch=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=make_optimizer(config).init(params),
        average=jax.tree.map(jnp.copy, params) if config.parameter_momentum else None,
        rng=rng,
        correlation=correlation,
        item_vectors=jnp.zeros((model.num_items, config.width), jnp.float32),
        score_covariance=jnp.zeros((columns, columns), jnp.float32) if config.correlates_scores() else None,
    )


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
