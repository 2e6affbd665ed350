"""Checkpoints with orbax: the best and the last state, written while training goes on."""

import dataclasses
import logging
from pathlib import Path

import jax
import orbax.checkpoint as ocp

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


class Checkpoints:
    """The folder `checkpoints/` of a run: one checkpoint per saved epoch, of which the best and the last are kept."""

    def __init__(self, folder: Path) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs every file at level info
        options = ocp.CheckpointManagerOptions(
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
        )
        self._best_epoch = 0
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_names=("state", "progress"))

    def save(self, state: TrainState, progress: Progress) -> None:
        """Starts to write the state of epoch `progress.epoch`, when the one before is complete."""
        self.wait()
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),  # pyright: ignore[reportCallIssue]
            progress=ocp.args.JsonSave(dataclasses.asdict(progress)),  # pyright: ignore[reportCallIssue]
        )
        self._manager.save(progress.epoch, args=args, force=True)
        self._best_epoch = progress.best_epoch

    def last_epoch(self) -> int | None:
        """The newest saved epoch, or None."""
        return self._manager.latest_step()

    def restore(self, target: TrainState, epoch: int) -> tuple[TrainState, Progress]:
        """The state saved after `epoch`.

        Args:
          target: a state of the same shapes, or `as_shapes` of it.
          epoch: one of the saved epochs.

        Returns:
          State and progress.
        """
        shapes = as_shapes(target)
        found = self._manager.restore(
            epoch,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(shapes),  # pyright: ignore[reportCallIssue]
                progress=ocp.args.JsonRestore(),
            ),
        )
        progress = Progress(**found["progress"])
        self._best_epoch = max(self._best_epoch, progress.best_epoch)
        return found["state"], progress

    def wait(self) -> None:
        """Returns when everything is on disk; only then goes what is neither the best nor the last epoch."""
        self._manager.wait_until_finished()
        for epoch in sorted(self._manager.all_steps())[:-1]:
            if epoch != self._best_epoch:
                self._manager.delete(epoch)

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        self._manager.close()
