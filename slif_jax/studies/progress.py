"""How a study tells where it is: cells done and left, and what is running."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from slif_jax.progress import MODES, Reporter, ReporterFactory, Row, clock, make_reporter


class StudyProgress:
    """Two bars on a terminal, two lines per cell elsewhere."""

    def __init__(self, mode: str, *, cells: int, done: int) -> None:
        if mode not in MODES:
            raise ValueError(f"`progress` must be one of {', '.join(MODES)}: got '{mode}'.")
        self._cells, self._done, self._silent = cells, done, mode == "off"
        self._began, self._run = time.monotonic(), 0
        self._bar: Progress | None = None
        if mode == "bar" or (mode == "auto" and sys.stderr.isatty()):
            columns = TextColumn("{task.fields[name]}"), MofNCompleteColumn(), BarColumn(bar_width=20)
            self._bar = Progress(*columns, TextColumn("{task.fields[text]}"), console=Console(stderr=True))
            self._cell_task = self._bar.add_task("", total=cells, completed=done, name="cell", text="")
            self._epoch_task = self._bar.add_task("", total=1, name="epoch", text="")

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        elif not self._silent:
            print(text, flush=True)

    def start(self, name: str) -> ReporterFactory:
        """The next cell runs; its training reports to what the result makes."""
        if self._bar is None:
            self.say(f"cell {self._done + 1} of {self._cells}: {name}")
        else:
            self._bar.update(self._cell_task, text=name)

        def make(*, epochs: int, start: int, metric: str) -> Reporter:
            silent = make_reporter("off", epochs=epochs, start=start, metric=metric)
            if self._bar is None:
                return silent
            self._bar.reset(self._epoch_task, total=epochs, completed=start, text="")
            return _Epochs(silent, self._bar, self._epoch_task, metric)

        return make

    def finish(self, text: str) -> None:
        """The cell is done; `text` says what it gave."""
        self._done, self._run = self._done + 1, self._run + 1
        left = self._cells - self._done
        seconds = (time.monotonic() - self._began) / self._run
        self.say(f"  {text}, {left} left" + (f", about {clock(left * seconds)}" if left else ""))
        if self._bar is not None:
            self._bar.update(self._cell_task, completed=self._done)

    def __enter__(self) -> "StudyProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._bar is not None:
            self._bar.stop()


class _Epochs:
    """Moves the lower bar; everything else is silent."""

    def __init__(self, silent: Reporter, bar: Progress, task: TaskID, metric: str) -> None:
        self._silent, self._bar, self._task, self._metric = silent, bar, task, metric

    def say(self, text: str) -> None:
        self._silent.say(text)

    def epoch(self, row: Row, *, best: float) -> None:
        text = f"valid {self._metric} {row['valid'][self._metric]:.4f} (best {best:.4f})" if row["valid"] else ""
        self._bar.update(self._task, completed=row["epoch"], text=text)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        return None
