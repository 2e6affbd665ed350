"""Pictures of a run, as PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_run(rows: Sequence[dict[str, Any]], folder: Path, *, metric: str, best_epoch: int) -> list[Path]:
    """Draws the loss, the validation metric and the change of the correlation graph.

    Args:
      rows: the lines of `metrics.jsonl`.
      folder: where the files go; made if missing.
      metric: validation metric that picked the epoch.
      best_epoch: marked in the picture of that metric.

    Returns:
      The files written: `loss.png`, `validation.png`, and `correlation.png` where the graph was rebuilt.
    """
    if not rows:
        return []
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []

    def draw(
        name: str, title: str, label: str, lines: dict[str, tuple[list[int], list[float]]], **options: Any
    ) -> None:
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        for text, (x, y) in lines.items():
            axes.plot(x, y, label=text, marker="o" if len(x) < 3 else None)
        axes.set(title=title, xlabel="epoch", ylabel=label, **options)
        axes.grid(alpha=0.3)
        if name == "validation":
            axes.axvline(best_epoch, color="gray", linestyle=":", label=f"best epoch {best_epoch}")
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        figure.savefig(folder / f"{name}.png", dpi=120)
        plt.close(figure)
        files.append(folder / f"{name}.png")

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
    return files
