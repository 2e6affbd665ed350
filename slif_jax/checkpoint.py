"""Checkpoints: orbax writes the arrays in the background; checksums and the train loop's progress go beside them.

`checkpoints/12/` appears under its number only when it is complete. It holds `state/`, written by orbax, and
`checkpoint.json` with the progress, the configuration and a SHA-256 of every file. Of several processes the first alone
reads and writes; the others are told what it read.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from slif_jax.config import Config
from slif_jax.multihost import is_first
from slif_jax.train_state import TrainState
from slif_jax.workdir import CheckpointWarning, WorkdirError, config_differences, replace_text

SCHEMA = 3  # of `checkpoint.json`, and the only one read; since 3, states have a covariance of scores
_SEAL, _PARTIAL = "checkpoint.json", ".partial"


class CheckpointError(WorkdirError):
    """Checkpoints that cannot be written, or cannot be used; the message says why and what to do."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose files are not what was written."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """What the loop knows besides the arrays; saved with them as JSON."""

    epoch: int = 0
    """Epochs finished."""
    best_epoch: int = 0
    best_value: float = -1.0
    best_metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    recent: list[float] = dataclasses.field(default_factory=list)  # what picks the epoch, at the last evaluations
    evaluations_since_best: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def as_shapes(state: TrainState) -> TrainState:
    """The shapes of a state, without its values."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), state)


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
    """The folder `checkpoints/` of a run, one checkpoint per saved epoch.

    Kept are the last two and the best epoch of each, so that a damaged last one costs no more than the epochs since the
    one before. Nothing is deleted before its successor is complete.

    Args:
      folder: made when the first checkpoint is written.
      config: of the run; a checkpoint of another one is refused.

    Raises:
      CheckpointError: if there is a file in the folder's place.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        self._folder, self._config = folder.absolute(), config
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"{folder} is a file: checkpoints are kept there. Move it away.")
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: tuple[int, Future[None]] | None = None

    def save(self, state: TrainState, progress: Progress) -> None:
        """Starts to write the state of epoch `progress.epoch`, when the one before is complete.

        Raises:
          CheckpointError: if the one before could not be written.
        """
        self.wait()
        if is_first():
            # Copies: the next epoch is given the memory of `state`.
            arrays = jax.tree.map(lambda x: np.array(jax.random.key_data(x) if _is_key(x) else x), state)
            self._writing = progress.epoch, self._writer.submit(self._write, arrays, progress)

    def epochs(self) -> list[int]:
        """The saved epochs, ascending."""
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal() and path.is_dir())

    def restore_last(self, target: TrainState) -> tuple[TrainState, Progress] | None:
        """The newest state that is whole and whose best epoch is whole; damaged ones before it are named in a warning.

        Args:
          target: a state of the same shapes, or `as_shapes` of it.

        Returns:
          State and progress; None where nothing was saved.

        Raises:
          CheckpointError: if none can be used, or they are of another configuration or a newer version.
        """
        return self._restore_usable(target, best=False)

    def restore_best(self, target: TrainState) -> tuple[TrainState, Progress] | None:
        """As `restore_last`, but the state of the best epoch of the newest one that can be used."""
        return self._restore_usable(target, best=True)

    def restore(self, target: TrainState, epoch: int) -> tuple[TrainState, Progress]:
        """The state saved after `epoch`.

        Args:
          target: a state of the same shapes, or `as_shapes` of it.
          epoch: one of the saved epochs.

        Returns:
          State and progress.

        Raises:
          DamagedCheckpointError: if its files are not what was written.
          CheckpointError: if it is of another configuration or a newer version.
        """
        if is_first():
            self._verified(epoch)
        return self._load(target, epoch)

    def _load(self, target: TrainState, epoch: int) -> tuple[TrainState, Progress]:
        """As `restore`, of a checkpoint whose files were verified."""
        progress = from_first(self._seal(epoch)["progress"] if is_first() else None)
        shapes = as_shapes(target)
        blank = jax.tree.map(lambda x: _key_bits(x) if _is_key(x) else x, shapes)
        state = None
        if is_first():
            state = _read_arrays(self._folder / str(epoch) / "state", blank)
        state = _state_from_first(state, blank)
        with_keys = jax.tree.map(
            lambda shape, x: jax.random.wrap_key_data(jnp.asarray(x)) if _is_key(shape) else jnp.asarray(x),
            shapes,
            state,
        )
        return with_keys, Progress(**progress)

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          CheckpointError: if it could not be written.
        """
        if self._writing is None:
            return
        (epoch, written), self._writing = self._writing, None
        try:
            written.result()
        except Exception as error:
            reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0][:200]
            raise CheckpointError(
                f"The checkpoint of epoch {epoch} could not be written to {self._folder}: {reason}. What was saved "
                "before is intact. Mend the cause (space, quota, permissions), and the same command goes on from there."
            ) from error

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def _write(self, arrays: Any, progress: Progress) -> None:
        self._remove_partial()
        partial = self._folder / f"{progress.epoch}{_PARTIAL}"
        partial.mkdir(parents=True)
        try:
            self._fill(partial, arrays, progress)
        except BaseException:  # a full disk: what is useless need not fill it
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._remove(progress.epoch)  # one that was passed over because it is damaged
        os.rename(partial, self._folder / str(progress.epoch))
        self._prune()

    def _fill(self, partial: Path, arrays: Any, progress: Progress) -> None:
        _write_arrays(partial / "state", arrays)
        seal = {
            "schema": SCHEMA,
            "progress": dataclasses.asdict(progress),
            "config": self._config.to_dict(),
            "files": _checksums(partial),
        }
        replace_text(partial / _SEAL, json.dumps({**seal, "sha256": _digest(seal)}, indent=1))

    def _prune(self) -> None:
        last = self.epochs()[-2:]
        try:
            kept = {*last, *(self._seal(epoch)["progress"]["best_epoch"] for epoch in last)}
        except DamagedCheckpointError:  # what it would need is not known
            return
        for epoch in self.epochs():
            if epoch not in kept:
                self._remove(epoch)

    def _remove(self, epoch: int) -> None:
        """Under another name first: what is half deleted must not look like a checkpoint."""
        path = self._folder / str(epoch)
        if path.exists():
            shutil.rmtree(path.rename(path.with_name(f"{epoch}.gone{_PARTIAL}")))

    def _remove_partial(self) -> None:
        """What a killed process left half written or half deleted."""
        for path in self._folder.glob(f"*{_PARTIAL}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _restore_usable(self, target: TrainState, *, best: bool) -> tuple[TrainState, Progress] | None:
        chosen = from_first(self._choose() if is_first() else None)
        if chosen is None:
            return None
        epoch, best_epoch = chosen
        wanted = best_epoch if best and best_epoch else epoch
        try:
            state, progress = self._load(target, wanted)
        except (FileNotFoundError, DamagedCheckpointError):
            if wanted in self.epochs():
                raise
            return self._restore_usable(target, best=best)  # a training that is at work here has just removed it
        if best_epoch is None:
            progress = dataclasses.replace(progress, best_epoch=0, best_value=-1.0, best_metrics={})
        return state, progress

    def _choose(self) -> tuple[int, int | None] | None:
        """The epoch to go on from and its best one, 0 before there is any, None where it is lost; or None at all."""
        while True:
            epochs = self.epochs()
            chosen, damages = self._choose_among(epochs)
            if not damages or epochs == self.epochs():  # else a training that is at work here has removed some
                break
        told = " ".join(dict.fromkeys(damages))
        if chosen is None and damages:
            raise CheckpointError(f"{told} None is left to use: train again, with --resume=never.")
        if chosen is not None and damages:
            epoch, best_epoch = chosen
            if best_epoch is None:
                lost = "the best epoch is lost, and the best of those that are left or to come takes its place"
            elif epochs[-1] == epoch + 1:
                lost = f"epoch {epochs[-1]} is lost"
            else:
                lost = f"epochs {epoch + 1} to {epochs[-1]} are lost"
            warnings.warn(f"{told} The checkpoint of epoch {epoch} is used: {lost}.", CheckpointWarning, stacklevel=4)
        return chosen

    def _choose_among(self, epochs: list[int]) -> tuple[tuple[int, int | None] | None, list[str]]:
        """What `_choose` gives, and what is wrong with those that were passed over."""
        damages: list[str] = []
        without_best = 0
        for epoch in reversed(epochs):
            try:
                best_epoch = self._verified(epoch)["best_epoch"]
            except DamagedCheckpointError as error:
                damages.append(str(error))
                continue
            try:
                if best_epoch not in (0, epoch):
                    self._verified(best_epoch)
            except DamagedCheckpointError as error:
                damages.append(str(error))
                without_best = without_best or epoch
                continue
            return (epoch, best_epoch), damages
        return ((without_best, None) if without_best else None), damages

    def _verified(self, epoch: int) -> dict[str, Any]:
        """The progress of a checkpoint whose files are all as they were written."""
        seal, folder = self._seal(epoch), self._folder / str(epoch)
        for name, (size, digest) in seal["files"].items():
            path = folder / name
            if not path.is_file():
                raise DamagedCheckpointError(f"{path} is missing.")
            if path.stat().st_size != size:
                raise DamagedCheckpointError(f"{path} has {path.stat().st_size:,} bytes, {size:,} were written.")
            if _file_digest(path) != digest:
                raise DamagedCheckpointError(f"{path} is not what was written: its SHA-256 differs.")
        return seal["progress"]

    def _seal(self, epoch: int) -> dict[str, Any]:
        path = self._folder / str(epoch) / _SEAL
        try:
            seal = json.loads(path.read_text())
            schema, digest = seal["schema"], seal.pop("sha256")
        except FileNotFoundError:
            raise DamagedCheckpointError(f"{path} is missing.") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DamagedCheckpointError(f"{path} cannot be read.") from None
        if isinstance(schema, int) and schema != SCHEMA:
            words = f"{path} has schema {schema}, this version of slif_jax reads {SCHEMA}: it was written by"
            age = "a newer" if schema > SCHEMA else "an earlier"
            raise CheckpointError(f"{words} {age} one. Install that one, or start over with --resume=never.")
        if digest != _digest(seal):
            raise DamagedCheckpointError(f"{path} is not what was written: its SHA-256 differs.")
        if differences := config_differences(Config.from_dict(seal["config"]), self._config):
            raise CheckpointError(
                f"{path} is of another configuration than its run: {'; '.join(differences)}. Put back the checkpoints "
                "of this run, or start over with --resume=never."
            )
        return seal


# orbax is imported where it is used: that takes a second, and gives the root logger a handler.


def _write_arrays(folder: Path, arrays: Any) -> None:
    import orbax.checkpoint as ocp

    save: Any = ocp.args.StandardSave(arrays)  # pyright: ignore[reportCallIssue]
    with _checkpointer() as writer:
        writer.save(folder, args=save)


def _read_arrays(folder: Path, shapes: Any) -> Any:
    import orbax.checkpoint as ocp

    restore: Any = ocp.args.StandardRestore(shapes)  # pyright: ignore[reportCallIssue]
    with _checkpointer() as reader:
        return reader.restore(folder, args=restore)


def _checkpointer() -> Any:
    """Of process 0, which does what it does without waiting for the others."""
    import orbax.checkpoint as ocp

    for name in ("absl", "asyncio"):  # orbax logs every file, and every failure with all of its trace
        logging.getLogger(name).setLevel(logging.CRITICAL)
    several = jax.process_count() > 1
    options = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0} if several else None)
    # OCDBT is a format for many writers; every save with it keeps some 20 kB of memory.
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options, use_ocdbt=False)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _checksums(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of every file below `folder`, which are on the disk, and not on their way, when it returns."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, _file_digest(path)) for path in paths}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(seal: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(from_json(seal), sort_keys=True).encode()).hexdigest()


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key_bits(key: Any) -> jax.ShapeDtypeStruct:
    bits = jax.eval_shape(jax.random.key_data, key)
    return jax.ShapeDtypeStruct(bits.shape, bits.dtype, sharding=key.sharding)


def _state_from_first(state: Any, blank: Any) -> Any:
    """The state that process 0 has; None on the others."""
    if jax.process_count() == 1:
        return state
    given = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), blank) if state is None else state
    return multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, given))
