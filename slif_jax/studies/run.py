"""Runs the cells of a study, each one training run below `runs/`, and writes what they give together."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from slif_jax.config import DATA_FIELDS, Config
from slif_jax.plots import plot_study
from slif_jax.prepare import load_dataset
from slif_jax.studies.plan import NOISE_KINDS, Arm, Draw, Plan
from slif_jax.studies.progress import StudyProgress
from slif_jax.studies.results import Row, study_rows
from slif_jax.studies.tables import study_table, write_table
from slif_jax.train import train_and_evaluate
from slif_jax.workdir import Workdir, WorkdirError, environment

_FINGERPRINTS = ("data_fingerprint", "split_fingerprint")
SHARED_FIELDS = ("protocol", "selected_on", *_FINGERPRINTS)


def run_study(
    plan: Plan,
    workdir: str | Path,
    *,
    data_dir: str | None = None,
    progress: str = "auto",
    checkpoint_every: int = 10,
    should_stop: Callable[[], bool] = lambda: False,
    command: str = "",
) -> dict[str, Any]:
    """Runs what is not done yet and writes table and plot.

    A cell that has a result is not run again; one that was interrupted goes on from its checkpoint. Arms, seeds and
    splits may be added to a study later, settings of an arm may not be changed.

    Args:
      plan: what to run.
      workdir: folder of the study: `runs/`, then `study.json`, `study.csv`, `study.md`, `study.tex`, `study.png`.
      data_dir: where fetched data sets are kept; None is the user's cache folder.
      progress: 'auto', 'bar', 'line' or 'off'.
      checkpoint_every: epochs between two checkpoints of a run.
      should_stop: asked before every epoch; see `train_and_evaluate`.
      command: what was typed, for the record.

    Returns:
      What `study.json` holds.

    Raises:
      WorkdirError: if the folder belongs to another study or is in use, or its data have changed.
      ValueError: if splits are asked for and the split of an arm is not drawn, or nobody has an item in test.
      Stopped: when `should_stop` has ended a training.
      DataError: on unusable data.
    """
    _check_splits(plan, data_dir)
    with open_study(workdir, plan.kind, {arm.label: arm.settings() for arm in plan.arms}, plan.title) as folder:
        cells = [(arm, draw) for draw in plan.draws for arm in plan.arms]
        results: dict[tuple[str, Draw], dict[str, Any]] = {}
        for arm, draw in cells:
            if (result := finished_cell(run_folder(folder, arm, draw), arm.config_of(draw))) is not None:
                results[arm.label, draw] = result
        with StudyProgress(progress, cells=len(cells), done=len(results)) as reporter:
            if results:
                reporter.say(f"{len(results)} of {len(cells)} cells of {folder.path} are done already.")
            for arm, draw in cells:
                if (arm.label, draw) in results:
                    continue
                began = time.monotonic()
                result = train_and_evaluate(
                    arm.config_of(draw),
                    run_folder(folder, arm, draw).path,
                    data_dir=data_dir,
                    progress=reporter.start(f"{arm.label}, {draw}"),
                    checkpoint_every=checkpoint_every,
                    should_stop=should_stop,
                )
                jax.clear_caches()  # a study would otherwise keep the programs of all its runs
                if None in result["test"].values():
                    raise ValueError(
                        f"{result['dataset']} has no user with an item in test; a study compares test results."
                    )
                results[arm.label, draw] = result
                scores = ", ".join(f"{metric} {result['test'][metric]:.4f}" for metric in plan.metrics)
                reporter.finish(f"test {scores}, best epoch {result['best_epoch']}, {time.monotonic() - began:.0f} s")
        rows = study_rows(plan, lambda arm, draw: run_folder(folder, arm, draw).path / "test_users.npz")
        study = _describe(plan, results, rows, command)
        write_table(folder, "study", study_table(study))
        plot_study(study, folder.path / "study.png")
        folder.write_json("study.json", study)
        return study


@contextlib.contextmanager
def open_study(workdir: str | Path, kind: str, arms: dict[str, dict[str, Any]], title: str) -> Iterator[Workdir]:
    """Makes the folder of a study ready, or refuses it, and keeps other processes out.

    Args:
      workdir: the folder.
      kind: of the study.
      arms: settings by label.
      title: of the study.

    Yields:
      The folder, with a `study.json`.

    Raises:
      WorkdirError: if the folder holds something else, or the same arm with other settings, or is in use.
    """
    folder = Workdir(workdir)
    if folder.path.exists() and not folder.path.is_dir():
        raise WorkdirError(f"{folder.path} is a file. Name a folder with --workdir.")
    with folder.lock():
        _claim_study(folder, kind, arms, title)
        yield folder


def _claim_study(folder: Workdir, kind: str, arms: dict[str, dict[str, Any]], title: str) -> None:
    stored = folder.read_json("study.json")
    if stored is None:
        if folder.holds_files():
            raise WorkdirError(f"{folder.path} holds files, but no study.json. Name an empty --workdir for the study.")
        folder.write_json("study.json", {"kind": kind, "title": title, "done": False, "settings": arms})
        return
    if not isinstance(stored, dict) or not isinstance(stored.get("settings"), dict) or "kind" not in stored:
        raise WorkdirError(f"{folder.path / 'study.json'} is damaged. Name another --workdir, or restore the file.")
    if stored["kind"] != kind:
        raise WorkdirError(f"{folder.path} holds a study of kind '{stored['kind']}', not '{kind}'. Name another.")
    known, defaults = stored["settings"], Config().to_dict()  # a setting that the stored ones lack had its default
    for label in [label for label in arms if label in known]:
        now, was = arms[label], {**defaults, **known[label]}
        different = [f"{name} is {now[name]}, was {was.get(name)}" for name in now if now[name] != was.get(name)]
        if different:
            raise WorkdirError(
                f"{folder.path} holds this study with other settings ('{label}': {'; '.join(different)}). "
                "Name another --workdir."
            )
    folder.write_json("study.json", {**stored, "done": False, "settings": {**known, **arms}})


def _check_splits(plan: Plan, data_dir: str | None) -> None:
    """Seeds of the split that change nothing would make one split count as many."""
    if not plan.split_seeds:
        return
    noise = dict.fromkeys(NOISE_KINDS.values(), 0.0)  # it is put on what has been split
    checked: set[tuple[Any, ...]] = set()
    for arm in plan.arms:
        config = dataclasses.replace(arm.config, **noise, weigh_interactions=False)
        data = tuple(getattr(config, name) for name in DATA_FIELDS)
        if data in checked:
            continue
        checked.add(data)
        first = plan.split_seeds[0]
        two = (dataclasses.replace(config, split_seed=seed) for seed in (first, first + 1))
        if len({load_dataset(each, data_dir=data_dir).split_fingerprint for each in two}) == 1:
            raise ValueError(
                f"`split_seeds` changes nothing with --split={config.split} on {config.dataset} ('{arm.label}'): that "
                "split is not drawn. Draw one with --split=ratio."
            )


def run_folder(folder: Workdir, arm: Arm, draw: Draw) -> Workdir:
    """Where a cell is run."""
    return Workdir(folder.path / "runs" / arm.run_name(draw))


def finished_cell(run: Workdir, config: Config) -> dict[str, Any] | None:
    """The result of a run that is done with test and has this configuration, or None."""
    result, stored = run.read_json("result.json"), run.stored_config()
    if result is None or stored is None or stored[0] != config or not result["test"]:
        return None
    complete = result["epochs"] == config.epochs or result["stopped_early"]
    return result if complete and (run.path / "test_users.npz").is_file() else None


def _describe(
    plan: Plan, results: dict[tuple[str, Draw], dict[str, Any]], rows: list[Row], command: str
) -> dict[str, Any]:
    arms = []
    for arm in plan.arms:
        shared: dict[str, str | dict[str, str]] = {}
        for field in SHARED_FIELDS:
            by_split: dict[str, set[str]] = {}
            for draw in plan.draws:
                by_split.setdefault(str(draw.split_seed), set()).add(results[arm.label, draw][field])
            if any(len(values) > 1 for values in by_split.values()):
                raise WorkdirError(
                    f"The runs of '{arm.label}' differ in {field}: the data were changed while the study ran. "
                    "Name another --workdir."
                )
            found = {split: values.pop() for split, values in by_split.items()}
            several = plan.split_seeds and field in _FINGERPRINTS  # of each split, by its seed
            shared[field] = found if several else next(iter(found.values()))
        described = {"label": arm.label, "reference": arm.reference, "group": arm.group, "x": arm.x}
        arms.append({**described, "config_hash": arm.config_hash(), **shared})
    cells = [
        {
            "arm": arm.label,
            "seed": draw.seed,
            "split_seed": draw.split_seed,
            "run": arm.run_name(draw),
            "best_epoch": result["best_epoch"],
            "epochs": result["epochs"],
            "valid": {metric: result["valid"].get(metric) for metric in plan.metrics},
            "test": {metric: result["test"][metric] for metric in plan.metrics},
            "seconds": round(sum(result["seconds"].values()), 1),
            "epoch_seconds": _epoch_seconds(result),
            "cold_candidates": result.get("test_groups", {}).get("items", {}).get("among_cold", {}).get("candidates"),
        }
        for arm in plan.arms
        for draw in plan.draws
        for result in [results[arm.label, draw]]
    ]
    return {
        "kind": plan.kind,
        "title": plan.title,
        "done": True,
        "command": command,
        "seeds": list(plan.seeds),
        "split_seeds": list(plan.split_seeds),
        "metrics": list(plan.metrics),
        "alternative": plan.alternative,
        "x_label": plan.x_label,
        "arms": arms,
        "settings": {arm.label: arm.settings() for arm in plan.arms},
        "rows": [_row(row) for row in rows],
        "cells": cells,
        "environment": environment(),
    }


def _epoch_seconds(result: dict[str, Any]) -> float:
    """Steps, rebuild and validation of an epoch; what a run does once is not in it."""
    return round(
        sum(result["seconds"].get(phase, 0.0) for phase in ("train", "rebuild", "evaluate")) / result["epochs"], 3
    )


def _row(row: Row) -> dict[str, Any]:
    """A row as JSON types; what is no number (no user has a cold item) is None."""

    def known(value: Any) -> Any:
        if isinstance(value, list):
            return [known(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    scores = {
        metric: {name: known(value) for name, value in score._asdict().items()} for metric, score in row.scores.items()
    }
    return {**row._asdict(), "scores": scores}
