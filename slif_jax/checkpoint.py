"""Checkpoints with orbax: the best and the last state, written while training goes on.

Of several processes the first alone reads and writes; the others are told what it read.
"""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from slif_jax.multihost import is_first
from slif_jax.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the loop knows besides the arrays; saved with them as JSON."""

    epoch: int = 0
    """Epochs finished."""
    best_epoch: int = 0
    best_value: float = -1.0
    best_metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    evaluations_since_best: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def as_shapes(state: TrainState) -> TrainState:
    """The shapes of a state, without its values."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, state)


def from_first(value: Any) -> Any:
    """What process 0 has, on all processes; every process must ask.

    Args:
      value: anything that JSON can hold; that of other processes does not count.

    Returns:
      The value of process 0.
    """
    if jax.process_count() == 1:
        return from_json(value)
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    given = text if is_first() else np.zeros(size, np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(given)).astype(np.uint8)))


def from_json(value: Any) -> Any:
    """The value as it would come back from `from_first`: lists for tuples."""
    return json.loads(json.dumps(value))


class Checkpoints:
    """The folder `checkpoints/` of a run: one checkpoint per saved epoch, of which the best and the last are kept."""

    def __init__(self, folder: Path) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs every file at level info
        self._best_epoch = 0
        self._manager: ocp.CheckpointManager | None = None
        if not is_first():
            return
        alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        options = ocp.CheckpointManagerOptions(
            enable_async_checkpointing=True,
            cleanup_tmp_directories=jax.process_count() == 1,
            create=jax.process_count() == 1,
            multiprocessing_options=alone if jax.process_count() > 1 else ocp.options.MultiprocessingOptions(),
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_names=("state", "progress"))

    def save(self, state: TrainState, progress: Progress) -> None:
        """Starts to write the state of epoch `progress.epoch`, when the one before is complete."""
        self.wait()
        self._best_epoch = progress.best_epoch
        if self._manager is None:
            return
        state = _without_keys(state)
        if jax.process_count() > 1:  # orbax takes arrays of one process for a mistake
            state = jax.tree.map(np.asarray, state)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),  # pyright: ignore[reportCallIssue]
            progress=ocp.args.JsonSave(dataclasses.asdict(progress)),  # pyright: ignore[reportCallIssue]
        )
        self._manager.save(progress.epoch, args=args, force=True)

    def last_epoch(self) -> int | None:
        """The newest saved epoch, or None."""
        return from_first(None if self._manager is None else self._manager.latest_step())

    def restore(self, target: TrainState, epoch: int) -> tuple[TrainState, Progress]:
        """The state saved after `epoch`.

        Args:
          target: a state of the same shapes, or `as_shapes` of it.
          epoch: one of the saved epochs.

        Returns:
          State and progress.
        """
        shapes = as_shapes(target)
        blank = jax.tree.map(lambda x: _key_bits(x) if _is_key(x) else x, shapes)
        state, progress = None, {}
        if self._manager is not None:
            found = self._manager.restore(
                epoch,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(blank),  # pyright: ignore[reportCallIssue]
                    progress=ocp.args.JsonRestore(),
                ),
            )
            state, progress = found["state"], found["progress"]
        saved = Progress(**from_first(progress))
        self._best_epoch = max(self._best_epoch, saved.best_epoch)
        state = _state_from_first(state, blank)
        with_keys = jax.tree.map(
            lambda shape, x: jax.random.wrap_key_data(jnp.asarray(x)) if _is_key(shape) else x, shapes, state
        )
        return with_keys, saved

    def wait(self) -> None:
        """Returns when everything is on disk; only then goes what is neither the best nor the last epoch."""
        if self._manager is None:
            return
        self._manager.wait_until_finished()
        for epoch in sorted(self._manager.all_steps())[:-1]:
            if epoch != self._best_epoch:
                self._manager.delete(epoch)

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        if self._manager is not None:
            self._manager.close()


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key_bits(key: Any) -> jax.ShapeDtypeStruct:
    bits = jax.eval_shape(jax.random.key_data, key)
    return jax.ShapeDtypeStruct(bits.shape, bits.dtype, sharding=key.sharding)


def _without_keys(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, state)


def _state_from_first(state: Any, blank: Any) -> Any:
    """The state that process 0 has; None on the others."""
    if jax.process_count() == 1:
        return state
    given = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), blank) if state is None else state
    return multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, given))
