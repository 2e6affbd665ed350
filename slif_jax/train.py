"""Trains, rebuilds the correlation graph between epochs, picks the epoch on validation, and touches test once."""

import contextlib
import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from slif_jax import data, plots
from slif_jax.blend import named_weights
from slif_jax.checkpoint import Checkpoints, Progress, as_shapes, from_first, from_json
from slif_jax.config import CONTENT, Config
from slif_jax.credibility import summary_of_weights
from slif_jax.debug import failing_operation
from slif_jax.engine import Engine, make_engine
from slif_jax.graphs import build_graphs, missing_features, used_modalities
from slif_jax.groups import COLD_TEST, save_users, test_results, training_tasks
from slif_jax.memory import check_fits
from slif_jax.meshes import built_on_host
from slif_jax.model import make_model
from slif_jax.multihost import is_first, on_any_host
from slif_jax.outcome import describe_result, result_of
from slif_jax.prepare import load_dataset
from slif_jax.progress import Reporter, ReporterFactory, make_reporter
from slif_jax.protocols import Protocol
from slif_jax.train_state import TrainState, init_train_state
from slif_jax.train_step import LOSS_PARTS, NORMS, EpochLosses, rebuild_is_due, training_data
from slif_jax.workdir import Stopped, Workdir, WorkdirError


class NonFiniteLossError(FloatingPointError):
    """A loss or a gradient is no longer a number; the checkpoints are intact."""


class Seconds(dict[str, float]):
    """Wall-clock seconds by phase."""

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Adds the time of the block to `phase`."""
        start = time.monotonic()
        yield
        self[phase] = self.get(phase, 0.0) + time.monotonic() - start


def train_and_evaluate(
    config: Config,
    workdir: str | Path,
    *,
    data_dir: str | None = None,
    resume: str = "auto",
    progress: str | ReporterFactory = "auto",
    checkpoint_every: int = 10,
    checkpoint_minutes: float = 5.0,
    should_stop: Callable[[], bool] = lambda: False,
    evaluate_test: bool = True,
    flags_text: str | None = None,
    mesh: Mesh | None = None,
    check_memory: bool = True,
    debug_nans: bool = False,
) -> dict[str, Any]:
    """Runs a whole training and leaves everything in `workdir`.

    Args:
      config: what to train.
      workdir: folder of the run.
      data_dir: where fetched data sets are kept; None is the user's cache folder.
      resume: 'auto', 'never' or 'must'; see `Workdir.open`.
      progress: 'auto', 'bar', 'line', 'off', or a function that makes the reporter.
      checkpoint_every: epochs between two checkpoints; a new best is saved as well.
      checkpoint_minutes: an epoch is also saved if the last checkpoint is older than this.
      should_stop: asked before every epoch; if it says so on any of the processes, all save and stop.
      evaluate_test: False leaves test alone, for a search over settings; the same call with True later evaluates it.
      flags_text: written to `flags.txt`, for programs that are started with flags.
      mesh: devices that share the work, see `meshes.make_mesh`; None is the default device alone. A run can go on
        with another mesh than it began with.
      check_memory: whether a training that is estimated to need more memory than there is does not begin.
      debug_nans: where a loss is not finite, say which operation gave it; keeps a copy of each epoch's first state, on
        one device only.

    Returns:
      What `result.json` holds.

    Raises:
      DataError: on unusable data.
      WorkdirError: if the folder belongs to another configuration, or another process is at work in it.
      CheckpointError: if a checkpoint cannot be written, or none can be used.
      Stopped: when `should_stop` has ended the run.
      NonFiniteLossError: if a loss or a gradient is no longer finite.
      WillNotFitError: if the memory would not do.
    """
    seconds = Seconds(setup=0.0, compile=0.0, train=0.0, rebuild=0.0, evaluate=0.0)
    if mesh is None and jax.process_count() > 1:
        raise ValueError(f"{jax.process_count()} processes need a mesh: --mesh=data:{jax.device_count()}.")
    if debug_nans and mesh is not None:
        raise ValueError("--debug_nans works on one device: leave out --mesh.")
    with contextlib.ExitStack() as stack:  # whatever happens, a checkpoint that is being written is finished
        with seconds.measure("setup"):
            stack.enter_context(built_on_host(mesh))
            if not is_first():  # what it would write, the first process writes
                scratch = tempfile.TemporaryDirectory(prefix="slif-jax-", ignore_cleanup_errors=True)
                workdir, progress, resume = stack.enter_context(scratch), "off", "auto"
            folder = Workdir(workdir)
            folder.check(config, resume=resume)
            stack.enter_context(folder.lock())
            dataset = load_dataset(config, data_dir=data_dir)
            ours = [config.to_dict(), dataset.fingerprint]
            if from_first(ours) != from_json(ours):
                raise ValueError("Flags or data of this process differ from those of process 0: give all the same.")
            if check_memory:
                check_fits(dataset, config, devices=1 if mesh is None else mesh.size)
            graphs, model = build_graphs(dataset, config, mesh), make_model(dataset, config)
            folder.open(config, resume=resume, data_fingerprint=dataset.fingerprint)
            state, status = init_train_state(model, graphs, config, mesh), Progress()
            checkpoints = stack.enter_context(contextlib.closing(Checkpoints(folder.checkpoints, config)))
            if (saved := checkpoints.restore_last(state)) is not None:
                state, status = saved
                del saved
                status = Progress(**from_first(dataclasses.asdict(_with_a_best(status, folder, config))))
            elif is_first():
                _refuse_lost_checkpoints(folder, resume)
            examples = training_data(dataset, config, on_host=mesh is not None)
            tasks = training_tasks(dataset, config)
        make = functools.partial(
            make_reporter, progress, epochs=config.epochs, start=status.epoch, metric=config.select_on
        )
        done = from_first(_finished(folder, config, status, evaluate_test=evaluate_test))
        if done is not None:
            more = f" (it has {status.epoch} epochs)" if status.epoch > config.epochs else ""
            with make() as reporter:
                reporter.say(f"{folder.path} is done{more}: nothing to train.\n{describe_result(done)}")
            return done
        folder.write_run_files(config, dataset.fingerprint, flags_text)
        folder.keep_metrics(status.epoch)
        for phase, value in status.seconds.items():
            seconds[phase] = seconds.get(phase, 0.0) + value
        with seconds.measure("compile"):
            engine = make_engine(dataset, model, graphs, examples, tasks, state, mesh)
            shapes, state = as_shapes(state), engine.put(state)
            find_failure = None
            if debug_nans:
                find_failure = functools.partial(failing_operation, model=model, graphs=graphs, data=examples)
            del graphs, examples  # on a mesh the devices have their own share by now
        training = _Training(
            state=state,
            status=status,
            config=config,
            folder=folder,
            dataset=dataset,
            engine=engine,
            checkpoints=checkpoints,
            reporter=stack.enter_context(make()),
            seconds=seconds,
            should_stop=should_stop,
            checkpoint_every=checkpoint_every,
            checkpoint_minutes=checkpoint_minutes,
            to_go_on="the same command" + (", without --resume=never," if resume == "never" else ""),
            find_failure=find_failure,
            parts=tuple(tasks),
        )
        del state  # `training` has the only reference: what a step or the best epoch replaces is free at once
        training.greet()
        training.run_epochs()
        return training.finish(shapes, evaluate_test=evaluate_test)


@dataclasses.dataclass
class _Training:
    """A training between its setup and its end."""

    state: TrainState
    status: Progress
    config: Config
    folder: Workdir
    dataset: data.Dataset
    engine: Engine
    checkpoints: Checkpoints
    reporter: Reporter
    seconds: Seconds
    should_stop: Callable[[], bool]
    checkpoint_every: int
    checkpoint_minutes: float
    to_go_on: str
    find_failure: Callable[..., str] | None
    """Given the state at the start of an epoch and the step that failed, names the operation."""
    parts: tuple[str, ...]
    """What `engine` evaluates."""

    def greet(self) -> None:
        """Says what is trained on."""
        self.reporter.say(self.dataset.summary())
        if self.config.weighs_interactions():
            self.reporter.say(summary_of_weights(self.dataset))
        lacking = missing_features(self.dataset, self.config)
        if any(lacking.values()):
            counts = ", ".join(f"{name} {count:,}" for name, count in lacking.items())
            self.reporter.say(f"Items without a modality: {counts}; policy {self.config.missing_features}.")
        if CONTENT in self.config.linear_weights() and not used_modalities(self.dataset, self.config):
            self.reporter.say("There are no features: --content_weight has no effect.")
        if (over := self.config.select_over) > 1:
            self.reporter.say(f"The epoch is picked by the mean of {over} evaluations: 'best' is the best such mean.")
        if self.status.epoch:
            self.reporter.say(f"Going on after epoch {self.status.epoch} of {self.folder.path}.")

    def run_epochs(self) -> None:
        """Trains until it is over, and saves on the way."""
        saved_at, saved_epoch = time.monotonic(), self.status.epoch
        while not _is_over(self.status, self.config):
            if on_any_host(self.should_stop()):
                epoch = self.status.epoch
                if saved_epoch != epoch:
                    self.checkpoints.save(self.engine.get(self.state), self.status)
                self.checkpoints.wait()
                raise Stopped(f"Stopped after epoch {epoch}: {self.to_go_on} goes on from there.")
            row = self._epoch(self.status.epoch + 1)
            self.status, is_best = _advance(self.status, row[self._part], self.config.rules(), self.seconds)
            self.folder.append_metrics(row)
            overdue = from_first(time.monotonic() - saved_at > 60 * self.checkpoint_minutes)
            due = self.status.epoch % self.checkpoint_every == 0 or _is_over(self.status, self.config)
            if is_best or overdue or due:
                self.checkpoints.save(self.engine.get(self.state), self.status)
                saved_at, saved_epoch = time.monotonic(), self.status.epoch
            self.reporter.epoch(row, best=self.status.best_value)
        self.checkpoints.wait()

    def _epoch(self, epoch: int) -> dict[str, Any]:
        """Rebuild, steps, validation; the row of `metrics.jsonl`."""
        engine, measure, kept = self.engine, self.seconds.measure, None
        if rebuild_is_due(epoch - 1, self.config):
            with measure("rebuild"):
                self.state, kept = jax.block_until_ready(engine.close_the_loop(self.state))
        before = None if self.find_failure is None else jax.tree.map(jnp.copy, self.state)
        with measure("train"):
            self.state, losses = jax.block_until_ready(engine.run_epoch(self.state))
        if (step := int(losses.failed_step)) >= 0:
            message = _failure(losses, epoch, self.folder)
            found = "--debug_nans finds the operation."
            if self.find_failure is not None:
                found = self.find_failure(before, step=step)
            raise NonFiniteLossError(f"{message} {found}")
        with measure("evaluate"):
            encoded = engine.encode(self.state)
            self.state = engine.feed_back(self.state, encoded)
            scores, tuned = {}, {}
            if len(self.dataset.splits[self._part]) and _evaluation_is_due(epoch, self.config):
                if engine.tune is not None:
                    self.state, encoded = engine.tune(self.state, encoded)
                    tuned = {"linear_weights": self._linear_weights()}
                scores = engine.evaluate(encoded, self._part).means()
        means = {name: float(value) for name, value in losses.means.items()}
        row = {"epoch": epoch, "loss": {name: means[name] for name in LOSS_PARTS}, "valid": {}}
        return row | {
            "correlation_kept": None if kept is None else float(kept),
            "norms": {name: means[name] for name in NORMS},
            self._part: scores,
            **tuned,
        }

    def _linear_weights(self) -> dict[str, float]:
        """What the linear models weigh as the state stands."""
        return named_weights(self.engine.linear_names, self.state.serving_params)

    def finish(self, shapes: TrainState, *, evaluate_test: bool) -> dict[str, Any]:
        """Goes back to the best epoch, evaluates test, and writes what `result.json` holds."""
        config, folder, engine, status = self.config, self.folder, self.engine, self.status
        if not len(self.dataset.splits[self._part]) or not status.best_epoch:  # nothing was evaluated
            status = dataclasses.replace(status, best_epoch=status.epoch)
        elif status.best_epoch != status.epoch:
            del self.state
            self.state = engine.put(self.checkpoints.restore(shapes, status.best_epoch)[0])
        with self.seconds.measure("evaluate"):
            found = {}
            if evaluate_test:
                encoded = engine.encode(self.state)
                found = {part: engine.evaluate(encoded, part) for part in ("test", COLD_TEST) if part in self.parts}
        weights = self._linear_weights()
        result = result_of(config, self.dataset, status, linear_weights=weights, seconds=self.seconds)
        if (test := found.get("test")) is not None:
            save_users(folder.path / "test_users.npz", test, self.dataset, config, found.get(COLD_TEST))
            result |= test_results(test, config.activity_groups, found.get(COLD_TEST))
        try:
            rows = folder.read_metrics()
            plots.plot_run(rows, folder.plots, metric=config.select_on, best_epoch=status.best_epoch)
        except (KeyError, TypeError, AttributeError) as error:
            self.reporter.say(f"No plots: {folder.path / 'metrics.jsonl'} was changed ({error!r}).")
        folder.write_json("result.json", result)  # last: it says that the run is done
        self.reporter.say(describe_result(result))
        return result

    @property
    def _part(self) -> str:
        """The split that the epoch is chosen on."""
        return self.config.rules().select_part


def _refuse_lost_checkpoints(folder: Workdir, resume: str) -> None:
    """A run without any checkpoint has just begun, or somebody has removed them."""
    done = (folder.path / "result.json").is_file()
    if done or (resume == "must" and not folder.checkpoints.is_dir()):
        raise WorkdirError(
            f"{folder.path} has {'a result' if done else 'a run'}, but no checkpoints. Put them back, or start over "
            f"with --resume={'never' if done else 'auto'}."
        )


def _with_a_best(status: Progress, folder: Workdir, config: Config) -> Progress:
    """Where the best epoch was lost, the restored one takes its place, if it was evaluated."""
    if status.best_epoch or not is_first():
        return status
    part, rows = config.rules().select_part, folder.read_metrics()
    scores = next((row.get(part) for row in rows if row["epoch"] == status.epoch), None)
    if not isinstance(scores, dict) or config.select_on not in scores:
        return status
    value = _selection_value(status.recent or [scores[config.select_on]], config.rules())
    return dataclasses.replace(status, best_epoch=status.epoch, best_value=value, best_metrics=scores)


def _is_over(status: Progress, config: Config) -> bool:
    return status.epoch >= config.epochs or status.evaluations_since_best >= config.patience


def _evaluation_is_due(epoch: int, config: Config) -> bool:
    return epoch % config.eval_every == 0 or epoch == config.epochs


def _advance(
    status: Progress, scores: dict[str, float], rules: Protocol, seconds: dict[str, float]
) -> tuple[Progress, bool]:
    """Counts the epoch, and whether it is the best so far; a mean of more evaluations beats that of fewer."""
    status = dataclasses.replace(status, epoch=status.epoch + 1, seconds=dict(seconds))
    if not scores:
        return status, False
    of_fewer = len(status.recent) < rules.select_over  # so was the best so far
    recent = [*status.recent, scores[rules.select_on]][-rules.select_over :]
    status, value = dataclasses.replace(status, recent=recent), _selection_value(recent, rules)
    if of_fewer or rules.better(value, status.best_value):
        best = dataclasses.replace(
            status, best_epoch=status.epoch, best_value=value, best_metrics=scores, evaluations_since_best=0
        )
        return best, True
    return dataclasses.replace(status, evaluations_since_best=status.evaluations_since_best + 1), False


def _selection_value(recent: list[float], rules: Protocol) -> float:
    """What an epoch is picked by; of equal evaluations exactly their value."""
    mean = statistics.mean(recent)
    return mean if rules.round_digits is None else round(mean, rules.round_digits)


def _failure(losses: EpochLosses, epoch: int, folder: Workdir) -> str:
    values = {name: float(losses.at_failure[name]) for name in (*LOSS_PARTS, *NORMS)}
    bad = [f"{name} = {value}" for name, value in values.items() if not np.isfinite(value)]
    good = [f"{name} = {value:.4g}" for name, value in values.items() if np.isfinite(value)]
    return (
        f"Epoch {epoch}, step {int(losses.failed_step) + 1}: not finite: {', '.join(bad)}; finite: "
        f"{', '.join(good) or 'nothing'}. The checkpoints in {folder.checkpoints} are intact. Try a smaller "
        "--learning_rate or --clip_norm=1, in another --workdir or with --resume=never."
    )


def _finished(folder: Workdir, config: Config, status: Progress, *, evaluate_test: bool) -> dict[str, Any] | None:
    """The result of a run that has nothing left to do."""
    result = folder.read_json("result.json")
    if result is None or result.get("epochs") != status.epoch or (evaluate_test and not result.get("test")):
        return None
    return result if _is_over(status, config) else None
