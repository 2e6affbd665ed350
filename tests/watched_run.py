"""Trains for many epochs, and watches the memory, the open files and how often JAX compiles.

python tests/watched_run.py --epochs=500 --folder=DIR --flagfile=experiments/presets/smoke.flags

In a process of its own, as users train. Exit status 0: after epoch 20 nothing grew.
"""

import argparse
import ctypes
import dataclasses
import gc
import statistics
import sys
from pathlib import Path
from typing import Any

import jax
import psutil

from slif_jax.config import Config
from slif_jax.train import train_and_evaluate

SETTLED = 20
"""Epochs that may still allocate and compile."""
WINDOW, EVERY = 40, 4
"""Memory is a median over so many epochs, of a look at every fourth: the allocator gives back now more, now less."""
MOST_GROWTH, MOST_LATE_GROWTH = 0.03, 0.01
"""From epoch 20 to the end, and in the second half: saving warms up pools of threads, and what leaks goes on."""
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)
SMALL = Config(
    dataset="synthetic:users=60,items=40,clusters=3,seed=2",
    width=8,
    correlation_start=1,
    batch_size=128,
    softmax_negatives=32,
    modalities=("none",),
    eval_block=64,
)


class Watch:
    """A reporter that notes open files and compilations after every epoch, and memory now and then."""

    def __init__(self) -> None:
        self.compiled, self.rows, self.memory, self._process = 0, [], [], psutil.Process()

    def __call__(self, *, epochs: int, start: int, metric: str) -> "Watch":
        return self

    def count(self, event: str, duration_secs: float, **_: Any) -> None:
        self.compiled += event.endswith("backend_compile_duration")

    def say(self, text: str) -> None:
        pass

    def epoch(self, row: dict[str, Any], *, best: float) -> None:
        self.rows.append((self._process.num_fds(), self.compiled))
        if row["epoch"] > SETTLED and row["epoch"] % EVERY == 0:
            gc.collect()
            if _TRIM is not None:  # what the allocator holds back is no growth
                _TRIM(0)
            self.memory.append(self._process.memory_info().rss)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        pass


def preset(path: Path) -> Config:
    """The configuration of a flag file; its workdir does not count."""
    given = [line.removeprefix("--").split("=") for line in path.read_text().splitlines() if line.startswith("--")]
    values = {name: value for name, value in given if name != "workdir"}
    dataset = values.pop("dataset")
    return Config.from_dict({"dataset": dataset} | {name: int(value) for name, value in values.items()})


def main(config: Config, epochs: int, workdir: Path) -> int:
    """Trains, and prints what was seen.

    Returns:
      How many of memory, files and programs grew.
    """
    watch = Watch()
    jax.monitoring.register_event_duration_secs_listener(watch.count)
    train_and_evaluate(dataclasses.replace(config, epochs=epochs, patience=epochs), workdir, progress=watch)
    files, compiled = zip(*watch.rows, strict=True)
    looks = min(WINDOW // EVERY, len(watch.memory) // 3)
    middle = (len(watch.memory) - looks) // 2
    parts = (watch.memory[:looks], watch.memory[middle : middle + looks], watch.memory[-looks:])
    first, half, last = (statistics.median(part) / 2**20 for part in parts)
    growth, late = last / first - 1.0, last / half - 1.0
    print(
        f"{len(files)} epochs, after epoch {SETTLED}, half-way and at the end: {first:.1f}, {half:.1f} and {last:.1f} "
        f"MiB ({growth:+.1%}, in the second half {late:+.1%}; at most {MOST_GROWTH:.0%} and {MOST_LATE_GROWTH:.0%} are "
        f"allowed), {files[SETTLED]} and {files[-1]} open files, {compiled[SETTLED]} and {compiled[-1]} programs "
        "compiled"
    )
    grew = {
        "memory": growth > MOST_GROWTH or late > MOST_LATE_GROWTH,
        "open files": min(files[-20:]) > max(files[:SETTLED]),  # while a checkpoint is written there are some more
        "programs": compiled[-1] > compiled[SETTLED],
    }
    for name in (name for name, value in grew.items() if value):
        print(f"grew: {name}")
    return sum(grew.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--flagfile", type=Path, help="a preset; without one, the smallest training there is")
    parser.add_argument("--folder", type=Path, required=True)
    asked = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    sys.exit(main(SMALL if asked.flagfile is None else preset(asked.flagfile), asked.epochs, asked.folder / "run") > 0)
