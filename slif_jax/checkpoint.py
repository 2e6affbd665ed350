"""Checkpoints with orbax: the best and the last state, written while training goes on."""

import dataclasses
import logging
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

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


class Checkpoints:
    """The folder `checkpoints/` of a run: one checkpoint per saved epoch, of which the best and the last are kept."""

    def __init__(self, folder: Path) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs every file at level info
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(
                [LatestN(1), BestN(get_metric_fn=lambda metrics: metrics["best_epoch"], n=1)]
            ),
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_names=("state", "progress"))

    def save(self, state: TrainState, progress: Progress) -> None:
        """Starts to write the state of epoch `progress.epoch`."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),  # pyright: ignore[reportCallIssue]
            progress=ocp.args.JsonSave(dataclasses.asdict(progress)),  # pyright: ignore[reportCallIssue]
        )
        # The newest best is the best: a later epoch that only equals it must not push it out.
        is_best = progress.best_epoch == progress.epoch
        metrics = {"best_epoch": progress.epoch if is_best else -1}
        self._manager.save(progress.epoch, args=args, metrics=metrics, force=True)

    def last_epoch(self) -> int | None:
        """The newest saved epoch, or None."""
        return self._manager.latest_step()

    def restore(self, target: TrainState, epoch: int) -> tuple[TrainState, Progress]:
        """The state saved after `epoch`.

        Args:
          target: a state of the same shapes; its values are not used.
          epoch: one of the saved epochs.

        Returns:
          State and progress.
        """
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        found = self._manager.restore(
            epoch,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(shapes),  # pyright: ignore[reportCallIssue]
                progress=ocp.args.JsonRestore(),
            ),
        )
        return found["state"], Progress(**found["progress"])

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        self._manager.close()
