"""A search over settings with Optuna (the extra `sweep`): on validation alone; test is evaluated for the chosen one."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from slif_jax.config import CONTENT, Config
from slif_jax.data import Dataset
from slif_jax.graphs import side_views, used_modalities, uses_knowledge
from slif_jax.plots import plot_study
from slif_jax.prepare import load_dataset
from slif_jax.studies.plan import Arm, default_metrics
from slif_jax.studies.progress import StudyProgress
from slif_jax.studies.run import SHARED_FIELDS, open_study
from slif_jax.studies.tables import sweep_table, write_table
from slif_jax.train import train_and_evaluate
from slif_jax.workdir import Workdir, environment

_STARTUP_TRIALS = 8


@dataclasses.dataclass(frozen=True)
class Range:
    """Values that a setting may take: from `low` to `high`, on a logarithmic scale or not, or `choices`."""

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[int, ...] = ()

    def text(self) -> str:
        """As people read it."""
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        return f"{self.low:g} to {self.high:g}" + (", logarithmic" if self.log else "")


SPACE: dict[str, Range] = {
    "learning_rate": Range(5e-4, 2e-2, log=True),
    "l2": Range(1e-6, 1e-2, log=True),
    "dropout": Range(0.0, 0.4),
    "softmax_temperature": Range(0.1, 0.5, log=True),
    "side_weight": Range(0.0, 1.5),
    "interaction_correlation": Range(0.0, 1.0),
    "knowledge_correlation": Range(0.1, 10.0, log=True),
    "feature_correlation": Range(0.0, 0.8),
    "correlation_neighbors": Range(choices=(5, 10, 15, 20)),
    "feature_neighbors": Range(choices=(5, 10, 15, 20)),
    "consistency_weight": Range(1e-3, 0.3, log=True),
    "collaborative_consistency_weight": Range(1e-3, 0.5, log=True),
    "consistency_temperature": Range(0.05, 1.0, log=True),
    "knowledge_weight": Range(1e-2, 1.0, log=True),
    "regression_weight": Range(0.0, 0.2),
    "regression_l2": Range(20.0, 2000.0, log=True),
    "walk_weight": Range(0.0, 0.1),
    "walk_length": Range(choices=(1, 2, 3, 4)),
    "content_weight": Range(0.0, 0.1),
    "popularity_weight": Range(0.0, 0.3),
}
"""What is searched, and where. A setting that has no effect under the other settings is left out."""


def search_space(config: Config, dataset: Dataset) -> dict[str, Range]:
    """The settings of `SPACE` that count for a configuration and its data."""
    modalities, knowledge = bool(used_modalities(dataset, config)), uses_knowledge(dataset, config)
    linear = config.linear_weights()
    given = {} if config.tunes_linear_weights() else linear  # what is tuned need not be searched
    contrasted = config.contrasted_views(side_views(dataset, config))
    counts = {
        "softmax_temperature": config.loss == "softmax",
        "side_weight": modalities or knowledge,
        "interaction_correlation": config.correlates("interactions"),
        "knowledge_correlation": config.correlates("knowledge") and knowledge,
        "feature_correlation": config.correlates("features") and modalities,
        "correlation_neighbors": config.uses_correlation(),
        "feature_neighbors": modalities,
        "consistency_weight": bool(contrasted.keys() - {"collaborative"}),
        "collaborative_consistency_weight": "collaborative" in contrasted,
        "consistency_temperature": bool(contrasted),
        "knowledge_weight": knowledge,
        "regression_weight": "regression" in given,
        "regression_l2": "regression" in linear,
        "walk_weight": "walks" in given,
        "walk_length": "walks" in linear,
        "content_weight": CONTENT in given and modalities,
        "popularity_weight": "popularity" in given,
    }
    return {name: _with(values, getattr(config, name)) for name, values in SPACE.items() if counts.get(name, True)}


def _with(values: Range, start: float | int) -> Range:
    """The range widened to where the search starts; an amount of 0 is in no logarithmic range."""
    if values.choices:
        return dataclasses.replace(values, choices=tuple(sorted({*values.choices, int(start)})))
    if values.log and start <= 0:
        return values
    return dataclasses.replace(values, low=min(values.low, start), high=max(values.high, start))


def run_sweep(
    config: Config,
    workdir: str | Path,
    *,
    trials: int,
    search: Sequence[str] | None = None,
    data_dir: str | None = None,
    progress: str = "auto",
    checkpoint_every: int = 10,
    should_stop: Callable[[], bool] = lambda: False,
    command: str = "",
) -> dict[str, Any]:
    """Searches settings by validation, then evaluates the chosen ones on test, once.

    The first trial has the settings of `config`. A search that was interrupted goes on, and its interrupted trial goes
    on from its checkpoint; the journal is `trials.journal`. More trials may be asked for later.

    Args:
      config: every setting that is not searched.
      workdir: folder of the study.
      trials: how many configurations are tried.
      search: names of the settings to search; None searches all that count.
      data_dir: where fetched data sets are kept; None is the user's cache folder.
      progress: 'auto', 'bar', 'line' or 'off'.
      checkpoint_every: epochs between two checkpoints of a trial.
      should_stop: asked before every epoch; see `train_and_evaluate`.
      command: what was typed, for the record.

    Returns:
      What `study.json` holds.

    Raises:
      ModuleNotFoundError: where Optuna is not installed, with the command that installs it.
      ValueError: if a name is not in the search space, or the protocol picks the epoch on test.
      WorkdirError: if the folder belongs to another study.
    """
    optuna = _import_optuna()
    if config.rules().select_part != "valid":
        raise ValueError(f"A sweep searches on validation, but protocol {config.protocol} chooses on test.")
    dataset = load_dataset(config, data_dir=data_dir)
    if not len(dataset.valid):
        raise ValueError(f"{dataset.name} has no validation part to search on.")
    space = _chosen_space(search_space(config, dataset), search)
    title = f"Search on {dataset.name}: {config.select_on} on validation"
    started = {"every trial": {**config.to_dict(), "searched": sorted(space)}}
    with open_study(workdir, "sweep", started, title) as folder:
        study = _open_optuna(optuna, folder)
        _ask_again(optuna, study, config, space)
        complete = optuna.trial.TrialState.COMPLETE
        done = len(study.get_trials(states=(complete,)))
        with StudyProgress(progress, cells=max(trials, done), done=done) as reporter:
            if done:
                reporter.say(f"{done} of {trials} trials of {folder.path} are done already.")
            for number in range(done, trials):
                # A sampler of its own for each trial: an interrupted search draws what it would have drawn.
                study.sampler = optuna.samplers.TPESampler(n_startup_trials=_STARTUP_TRIALS, seed=config.seed + number)
                trial = study.ask()
                settings = {name: _suggest(trial, name, values) for name, values in space.items()}
                began = time.monotonic()
                result = _train(
                    folder,
                    config,
                    settings,
                    reporter.start,
                    data_dir=data_dir,
                    checkpoint_every=checkpoint_every,
                    should_stop=should_stop,
                )
                value = result["selected_value"]
                trial.set_user_attr("best_epoch", result["best_epoch"])
                study.tell(trial, value)
                reporter.finish(f"validation {config.select_on} {value:.4f}, {time.monotonic() - began:.0f} s")
            best = _ranked(study, complete)[0]
            chosen = _train(
                folder,
                config,
                best.params,
                reporter.start,
                data_dir=data_dir,
                checkpoint_every=1,
                should_stop=should_stop,
                evaluate_test=True,
            )
            reporter.say(f"test is evaluated for the chosen settings alone: {run_name(best.params)}")
        described = _describe(config, space, study.get_trials(states=(complete,)), best, chosen, title, command)
        write_table(folder, "study", sweep_table(described))
        plot_study(described, folder.path / "study.png")
        folder.write_json("study.json", {**(folder.read_json("study.json") or {}), **described})
        return described


def run_name(settings: dict[str, Any]) -> str:
    """Folder of a trial below `runs/`, by its settings."""
    return "trial-" + hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _import_optuna() -> Any:
    try:
        import optuna
        from optuna.storages import journal  # noqa: F401, loads the submodule
    except ModuleNotFoundError:
        raise ModuleNotFoundError("A sweep needs the package optuna: pip install 'slif_jax[sweep]'.") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _chosen_space(space: dict[str, Range], search: Sequence[str] | None) -> dict[str, Range]:
    for name in search or ():
        if name not in space:
            raise ValueError(f"`search` must name settings that count here ({', '.join(space)}): got '{name}'.")
    return {name: values for name, values in space.items() if search is None or name in search}


def _open_optuna(optuna: Any, folder: Workdir) -> Any:
    backend = optuna.storages.journal.JournalFileBackend(str(folder.path / "trials.journal"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.create_study(storage=storage, study_name="sweep", direction="maximize", load_if_exists=True)


def _ask_again(optuna: Any, study: Any, config: Config, space: dict[str, Range]) -> None:
    """Queues the starting settings of a new search, or what an interrupted one was running."""
    states = optuna.trial.TrialState
    if not study.get_trials(deepcopy=False):
        first = {name: getattr(config, name) for name in space}
        study.enqueue_trial({name: value for name, value in first.items() if value > 0 or not space[name].log})
    for trial in study.get_trials(states=(states.RUNNING,)):
        study.tell(trial.number, state=states.FAIL)
        if set(trial.params) == set(space):
            study.enqueue_trial(trial.params)


def _suggest(trial: Any, name: str, values: Range) -> float | int:
    if values.choices:
        return trial.suggest_categorical(name, values.choices)
    return trial.suggest_float(name, values.low, values.high, log=values.log)


def _train(
    folder: Workdir,
    config: Config,
    settings: dict[str, Any],
    start: Callable[[str], Any],
    *,
    data_dir: str | None,
    checkpoint_every: int,
    should_stop: Callable[[], bool],
    evaluate_test: bool = False,
) -> dict[str, Any]:
    shown = ", ".join(f"{name} {value:.3g}" for name, value in settings.items())
    result = train_and_evaluate(
        dataclasses.replace(config, **settings),
        folder.path / "runs" / run_name(settings),
        data_dir=data_dir,
        progress="off" if evaluate_test else start(shown),
        checkpoint_every=checkpoint_every,
        should_stop=should_stop,
        evaluate_test=evaluate_test,
    )
    jax.clear_caches()
    return result


def _ranked(study: Any, complete: Any) -> list[Any]:
    """The trials from best to worst; of equal ones the earlier."""
    return sorted(study.get_trials(states=(complete,)), key=lambda trial: (-trial.value, trial.number))


def _describe(
    config: Config,
    space: dict[str, Range],
    trials: Sequence[Any],
    best: Any,
    chosen: dict[str, Any],
    title: str,
    command: str,
) -> dict[str, Any]:
    metrics = list(default_metrics(config))
    arm = Arm("chosen", dataclasses.replace(config, **best.params))
    return {
        "kind": "sweep",
        "title": title,
        "done": True,
        "command": command,
        "seeds": [config.seed],
        "metrics": metrics,
        "space": {name: values.text() for name, values in space.items()},
        "trials": [
            {
                "trial": trial.number,
                "run": run_name(trial.params),
                "settings": {name: trial.params[name] for name in space},
                "value": trial.value,
                "best_epoch": trial.user_attrs["best_epoch"],
            }
            for trial in trials
        ],
        "chosen": {
            "trial": best.number,
            "run": run_name(best.params),
            "settings": best.params,
            "valid": {name: chosen["valid"][name] for name in metrics},
            "test": {name: chosen["test"][name] for name in metrics},
            "test_interval": {name: chosen["test_interval"][name] for name in metrics},
        },
        "arms": [
            {
                "label": arm.label,
                "config_hash": arm.config_hash(),
                **{field: chosen[field] for field in SHARED_FIELDS},
            }
        ],
        "environment": environment(),
    }
