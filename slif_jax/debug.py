"""Finds the operation that gave the first number that is none."""

import traceback
from pathlib import Path

import jax
import jax.numpy as jnp

from slif_jax.graphs import Graphs
from slif_jax.model import SlifMr
from slif_jax.train_state import TrainState, make_optimizer
from slif_jax.train_step import TrainingData, examples_of_step, make_train_step

_HERE = str(Path(__file__).resolve().parent)


def failing_operation(state: TrainState, model: SlifMr, graphs: Graphs, data: TrainingData, step: int) -> str:
    """Runs an epoch again up to a step that failed, and that step operation by operation.

    Args:
      state: at the start of the epoch.
      model: from `make_model`, for one device.
      graphs: static graphs.
      data: training data.
      step: of the epoch, counted from 0.

    Returns:
      A sentence with the operation and the line of this project that asked for it.
    """
    train_step = make_train_step(model, make_optimizer(model.config))
    run = jax.jit(train_step)
    for number in range(step):
        index = examples_of_step(state, data, model.config, jnp.int32(number))
        state, _ = run(state, graphs, data, index)
    index = examples_of_step(state, data, model.config, jnp.int32(step))
    for check in (jax.debug_nans, jax.debug_infs):
        try:
            with jax.disable_jit(), check(True):
                train_step(state, graphs, data, index)
        except FloatingPointError as error:
            ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_HERE)]
            line = ours[-1]
            where = f"{Path(line.filename).relative_to(Path(_HERE).parent)}:{line.lineno} in {line.name}: {line.line}"
            return f"{str(error).splitlines()[0].rstrip('.')}. It comes from {where}"
    return "Run operation by operation, the step gives numbers: the failure needs the compiled program."
