"""Pictures of a run and of a study, as figures and as files."""

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PART_NAMES = {
    "all": "all items",
    "warm": "warm items",
    "cold": "cold items",
    "among_cold": "cold items among themselves",
}


def plot_run(rows: Sequence[dict[str, Any]], folder: Path, *, metric: str, best_epoch: int) -> list[Path]:
    """Draws the loss, the validation metric and the change of the correlation graph.

    Args:
      rows: the lines of `metrics.jsonl`.
      folder: where the files go; made if missing.
      metric: validation metric that picked the epoch.
      best_epoch: marked in the picture of that metric.

    Returns:
      The files written: `loss.png`, `validation.png`, `correlation.png` where the graph was rebuilt, and `weights.png`
      where the weights of linear models were tuned.
    """
    files: list[Path] = []
    for name, figure in run_figures(rows, metric=metric, best_epoch=best_epoch).items():
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png", dpi=120)
        files.append(folder / f"{name}.png")
    return files


def run_figures(rows: Sequence[dict[str, Any]], *, metric: str, best_epoch: int) -> "dict[str, Figure]":
    """The pictures of `plot_run` by name; none without rows."""
    figures: dict[str, Figure] = {}
    if not rows:
        return figures

    def draw(
        name: str, title: str, label: str, lines: dict[str, tuple[list[int], list[float]]], **options: Any
    ) -> None:
        figure, axes = _figure(7.0, 4.0)
        for text, (x, y) in lines.items():
            axes.plot(x, y, label=text, marker="o" if len(x) < 3 else None)
        axes.set(title=title, xlabel="epoch", ylabel=label, **options)
        axes.grid(alpha=0.3)
        _whole_numbers(axes)
        if name == "validation":
            axes.axvline(best_epoch, color="gray", linestyle=":", label=f"best epoch {best_epoch}")
        if len(axes.get_legend_handles_labels()[0]) > 1:
            figure.legend(loc="outside lower center", ncols=3, frameon=False)
        figures[name] = figure

    epochs = [row["epoch"] for row in rows]
    parts = [name for name in rows[0]["loss"] if any(row["loss"][name] > 0 for row in rows)]
    draw(
        "loss",
        "Training loss and its parts",
        "loss per example",
        {name: (epochs, [row["loss"][name] for row in rows]) for name in parts},
        yscale="log",
    )
    scored = [row for row in rows if row["valid"]]
    if scored:
        x = [row["epoch"] for row in scored]
        names = [metric, *(name for name in ("ndcg@20",) if name != metric and name in scored[0]["valid"])]
        draw(
            "validation",
            "Validation",
            "mean over users",
            {name: (x, [row["valid"][name] for row in scored]) for name in names},
        )
    rebuilt = [row for row in rows if row["correlation_kept"] is not None]
    if rebuilt:
        draw(
            "correlation",
            "Self-loop: correlation edges kept from one epoch to the next",
            "share of edges",
            {"edges kept": ([row["epoch"] for row in rebuilt], [row["correlation_kept"] for row in rebuilt])},
            ylim=(0, 1.02),
        )
    tuned = [row for row in rows if row.get("linear_weights")]
    if tuned:
        x, first = [row["epoch"] for row in tuned], tuned[0]["linear_weights"]
        draw(
            "weights",
            "Linear models beside the vectors, tuned on validation",
            "cosines per standard deviation",
            {name: (x, [row["linear_weights"][name] for row in tuned]) for name in first},
            ylim=(0, None),
        )
    return figures


def study_figure(study: dict[str, Any]) -> "Figure":
    """The picture of a study: its rows with their spread over runs, or the trials of a search.

    Args:
      study: what `study.json` holds.

    Returns:
      One panel per metric and kind of items.
    """
    if study["kind"] == "sweep":
        return _trials_figure(study)
    parts = list(dict.fromkeys(row["part"] for row in study["rows"]))
    along = study["arms"][0]["x"] is not None
    labels = max(len(arm["label"]) for arm in study["arms"])
    panels = list(itertools.product(study["metrics"], parts))
    columns = len(parts) if len(parts) > 1 else min(len(panels), 3)
    width = 4.5 * columns if along else 0.08 * labels + 3.2 * columns
    height = 3.4 if along else 1.0 + 0.32 * len(study["arms"])
    figure, grid = _panels(max(width, 6.0), height, -(-len(panels) // columns), columns)
    for place, (metric, part) in enumerate(panels):
        column = place % columns
        axes: Axes = grid[place // columns][column]
        rows = {row["label"]: row["scores"][metric] for row in study["rows"] if row["part"] == part}
        (_along_x if along else _rows)(axes, study, rows)
        name = metric if len(parts) == 1 else f"{metric}, {PART_NAMES[part]}"
        if along:
            axes.set(ylabel=name, xlabel=study["x_label"])
        else:
            axes.set_xlabel(f"Δ {name}, split by split" if compares_splits(study) else name)
            axes.tick_params(labelleft=column == 0)
        axes.grid(alpha=0.3)
    for unused in grid.flat[len(panels) :]:
        unused.set_axis_off()
    if along and len({arm["group"] for arm in study["arms"]}) > 1:
        handles, names = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(study["title"])
    return figure


def groups_figure(groups: dict[str, Any], metrics: Sequence[str]) -> "Figure":
    """Means and 95 % intervals of the groups of a run.

    Args:
      groups: `test_groups` of `result.json`.
      metrics: one panel each.

    Returns:
      The figure; groups of nobody are left out.
    """
    names = {f"{PART_NAMES[name]}": group for name, group in groups["items"].items()}
    names |= {f"users with {name}": group for name, group in groups["activity"].items()}
    shown = {name: group for name, group in names.items() if group["means"]}
    figure, grid = _panels(4.5 * len(metrics), 1.0 + 0.32 * len(shown), 1, len(metrics))
    for column, metric in enumerate(metrics):
        axes: Axes = grid[0][column]
        for place, group in enumerate(shown.values()):
            mean, interval = group["means"][metric], group["interval"].get(metric)
            axes.plot(mean, place, "D", color="C0")
            if interval:
                axes.plot(interval, [place, place], color="C0")
        axes.set_yticks(range(len(shown)), list(shown))
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel(metric)
        axes.tick_params(labelleft=column == 0)
        axes.grid(alpha=0.3)
    return figure


def plot_study(study: dict[str, Any], path: Path) -> None:
    """Saves the picture of a study as PNG."""
    study_figure(study).savefig(path, dpi=120)


def compares_splits(study: dict[str, Any]) -> bool:
    """Whether the picture of a study shows differences from the reference: splits differ by more than its rows do."""
    along = study["arms"][0]["x"] is not None
    return len(study.get("split_seeds", [])) > 1 and not along and any(arm["reference"] for arm in study["arms"])


def _rows(axes: "Axes", study: dict[str, Any], scores: dict[str, dict[str, Any]]) -> None:
    """A row per arm: every run, their mean, and one standard deviation to each side.

    Over several splits: every run less the reference's on the same split, and one standard error to each side.
    """
    splits = compares_splits(study)
    for place, (arm, score) in enumerate(zip(study["arms"], scores.values(), strict=True)):
        values, mean, spread = score["by_seed"], score["mean"], score["std"]
        tested = arm["reference"] is not None
        if splits and tested:
            pairs = zip(values, scores[arm["reference"]]["by_seed"], strict=True)
            values = [value - before for value, before in pairs if None not in (value, before)]
            mean = statistics.mean(values) if values else None
            spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        if mean is None or (splits and not tested):
            continue
        color = "C1" if tested else "C0"
        axes.plot(values, [place] * len(values), "o", color=color, alpha=0.35, markersize=4)
        axes.errorbar(mean, place, xerr=spread, fmt="D", color=color, markersize=6, capsize=3)
    reference = 0.0 if splits else next(iter(scores.values()))["mean"]
    if reference is not None:
        axes.axvline(reference, color="gray", linestyle=":")
    axes.set_yticks(range(len(scores)), list(scores))
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=5)


def _along_x(axes: "Axes", study: dict[str, Any], scores: dict[str, dict[str, Any]]) -> None:
    """A line per group of arms."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for arm in study["arms"]:
        groups.setdefault(arm["group"], []).append(arm)
    for name, arms in groups.items():
        found = [(arm["x"], scores[arm["label"]]) for arm in arms if scores[arm["label"]]["mean"] is not None]
        x, means = [place for place, _ in found], [score["mean"] for _, score in found]
        spread = [score["std"] or 0.0 for _, score in found]
        bars = axes.errorbar(x, means, yerr=spread, marker="D", capsize=3, label=name)
        for place, score in found:
            axes.plot([place] * len(score["by_seed"]), score["by_seed"], "o", color=bars[0].get_color(), alpha=0.35)


def _trials_figure(study: dict[str, Any]) -> "Figure":
    """Validation by trial, and the best so far."""
    figure, axes = _figure(7.0, 4.0)
    x = [trial["trial"] for trial in study["trials"]]
    values = [trial["value"] for trial in study["trials"]]
    axes.plot(x, values, "o", label="trial")
    axes.step(x, list(itertools.accumulate(values, max)), where="post", label="best so far")
    axes.axvline(study["chosen"]["trial"], color="gray", linestyle=":", label=f"chosen: {study['chosen']['trial']}")
    axes.set(title=study["title"], xlabel="trial", ylabel=f"validation {study['metrics'][0]}")
    _whole_numbers(axes)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _whole_numbers(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    figure, grid = _panels(width, height, 1, 1)
    return figure, grid[0][0]


def _panels(width: float, height: float, lines: int, columns: int) -> "tuple[Figure, Any]":
    """An empty figure, which no program-wide state knows: it is gone when nothing holds it."""
    # Here and not above: matplotlib writes a list of fonts to the user's cache folder when it is imported.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * lines), layout="constrained")
    return figure, figure.subplots(lines, columns, squeeze=False)
