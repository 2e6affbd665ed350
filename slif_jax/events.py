"""Writes what a run reports as TensorBoard events too; needs the extra `tensorboard` (tensorboardX)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slif_jax.progress import Reporter, ReporterFactory, Row, make_reporter


def with_tensorboard(mode: str | ReporterFactory, folder: str | Path) -> ReporterFactory:
    """A reporter that also writes events: `loss/<part>`, `norms/<name>`, `valid/<metric>` and
    `correlation/edges_kept` per epoch.

    Args:
      mode: as in `make_reporter`; what people see.
      folder: where the event files go; made if missing. A resumed run adds a file whose events take the place of
        those after its checkpoint.

    Returns:
      What `train_and_evaluate` takes as `progress`.

    Raises:
      ModuleNotFoundError: where tensorboardX is not installed, with the command that installs it.
    """
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "TensorBoard events need the package tensorboardX: pip install 'slif_jax[tensorboard]'."
        ) from None

    def make(*, epochs: int, start: int, metric: str) -> Reporter:
        shown = make_reporter(mode, epochs=epochs, start=start, metric=metric)
        return _Events(shown, lambda: SummaryWriter(str(folder), purge_step=start + 1))

    return make


def scalars(row: Row) -> dict[str, float]:
    """The numbers of an epoch by tag.

    Args:
      row: a line of `metrics.jsonl`.

    Returns:
      `loss/<part>`, `norms/<name>` and `valid/<metric>` ('@' written '_at_', which TensorBoard's tags need), and
      `correlation/edges_kept` where the graph was rebuilt, `linear_weights/<model>` where they were tuned.
    """
    tags = {f"loss/{name}": value for name, value in row["loss"].items()}
    tags |= {f"norms/{name}": value for name, value in row["norms"].items()}
    tags |= {f"valid/{name.replace('@', '_at_')}": value for name, value in row["valid"].items()}
    if row["correlation_kept"] is not None:
        tags["correlation/edges_kept"] = row["correlation_kept"]
    tags |= {f"linear_weights/{name.replace(' ', '_')}": x for name, x in row.get("linear_weights", {}).items()}
    return tags


class _Events:
    def __init__(self, shown: Reporter, open_writer: Callable[[], Any]) -> None:
        self._shown, self._open_writer, self._writer = shown, open_writer, None

    def say(self, text: str) -> None:
        self._shown.say(text)

    def epoch(self, row: Row, *, best: float) -> None:
        self._shown.epoch(row, best=best)
        if self._writer is None:  # a run that is done already leaves no file
            self._writer = self._open_writer()
        for tag, value in scalars(row).items():
            self._writer.add_scalar(tag, value, row["epoch"])
        self._writer.flush()

    def __enter__(self) -> Reporter:
        self._shown.__enter__()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._writer is not None:
            self._writer.close()
        self._shown.__exit__(kind, error, trace)
