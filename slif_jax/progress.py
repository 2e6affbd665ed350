"""How a run tells where it is: a bar on a terminal, one line per epoch elsewhere."""

import sys
import time
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

Row = dict[str, Any]
MODES = ("auto", "bar", "line", "off")


@runtime_checkable
class Reporter(Protocol):
    """Where the loop reports to."""

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def epoch(self, row: Row, *, best: float) -> None:
        """An epoch is done; `row` is its line of `metrics.jsonl`, `best` the best validation value so far."""
        ...

    def __enter__(self) -> "Reporter": ...

    def __exit__(self, kind: object, error: object, trace: object) -> None: ...


@runtime_checkable
class ReporterFactory(Protocol):
    """Makes a reporter once it is known how many epochs there are."""

    def __call__(self, *, epochs: int, start: int, metric: str) -> Reporter:
        """`epochs` at most, of which `start` are done; `metric` is the validation metric that counts."""
        ...


def make_reporter(mode: str | ReporterFactory, *, epochs: int, start: int, metric: str) -> Reporter:
    """The reporter for a mode.

    Args:
      mode: 'bar', 'line', 'off', or 'auto': a bar where standard error is a terminal, else lines. Or a function that
        makes the reporter.
      epochs: epochs at most.
      start: epochs already done.
      metric: validation metric to show.

    Returns:
      A context manager.

    Raises:
      ValueError: on another mode.
    """
    if not isinstance(mode, str):
        return mode(epochs=epochs, start=start, metric=metric)
    if mode not in MODES:
        raise ValueError(f"`progress` must be one of {', '.join(MODES)}: got '{mode}'.")
    if mode == "off":
        return _Silent()
    if mode == "bar" or (mode == "auto" and sys.stderr.isatty()):
        return _Bar(epochs, start, metric)
    return _Lines(epochs, start, metric)


def _loss_text(row: Row) -> str:
    parts = ", ".join(f"{name} {value:.4f}" for name, value in row["loss"].items() if name != "loss" and value)
    return f"loss {row['loss']['loss']:.4f} ({parts})"


def _score_text(row: Row, metric: str, best: float) -> list[str]:
    """The part that picks the epoch: validation, or under a protocol that does so, test."""
    scored = [(part, row[part]) for part in ("valid", "test") if row.get(part)]
    return [f"{part} {metric} {scores[metric]:.4f} (best {best:.4f})" for part, scores in scored]


def _drift_text(row: Row) -> list[str]:
    kept = row["correlation_kept"]
    return [] if kept is None else [f"correlation edges kept {kept:.0%}"]


class _Silent:
    def say(self, text: str) -> None:
        del text

    def epoch(self, row: Row, *, best: float) -> None:
        del row, best

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        return None


class _Lines(_Silent):
    def __init__(self, epochs: int, start: int, metric: str) -> None:
        self._epochs, self._start, self._metric = epochs, start, metric
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        print(text, flush=True)

    def epoch(self, row: Row, *, best: float) -> None:
        epoch = row["epoch"]
        per_epoch = (time.monotonic() - self._began) / max(epoch - self._start, 1)
        left = clock((self._epochs - epoch) * per_epoch)
        parts = [_loss_text(row), *_score_text(row, self._metric, best), *_drift_text(row)]
        print(
            f"epoch {epoch}/{self._epochs}: {', '.join(parts)}, {per_epoch:.2f} s/epoch, at most {left} left",
            flush=True,
        )


class _TwoLines(Progress):
    """The bar, and below it what the last epoch gave: both fit a narrow terminal."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield from (Text(task.fields["text"]) for task in self.tasks)


class _Bar(_Silent):
    def __init__(self, epochs: int, start: int, metric: str) -> None:
        self._metric = metric
        self._bar = _TwoLines(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("epochs", total=epochs, completed=start, text="compiling")

    def say(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False)

    def epoch(self, row: Row, *, best: float) -> None:
        parts = [_loss_text(row), *_score_text(row, self._metric, best), *_drift_text(row)]
        self._bar.update(self._task, completed=row["epoch"], text=", ".join(parts))

    def __enter__(self) -> "Reporter":
        self._bar.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._bar.stop()


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds: 0:02:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
