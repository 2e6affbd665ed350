"""What only shows over time: runs killed again and again, memory, recompilation, open files.

The short forms run with the other tests, the long ones with `make soak`. What they tried and what was lost is printed
at the end of the session (`record_property`, conftest.py).
"""

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import psutil
import pytest

from slif_jax.config import Config
from slif_jax.train import train_and_evaluate

ROOT = Path(__file__).resolve().parents[1]
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)
Record = Callable[[str, object], None]
SMOKE = ROOT / "experiments" / "presets" / "smoke.flags"


def killed(folder: Path, kills: int, record_property: Record) -> str:
    command = [sys.executable, str(ROOT / "tests" / "killed_runs.py"), f"--kills={kills}", f"--folder={folder}"]
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    record_property("tried", done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_runs_killed_at_any_moment_lose_nothing(tmp_path: Path, record_property: Record):
    printed = killed(tmp_path, 4, record_property)
    assert "4 kills" in printed
    assert "none differ from the unbroken run" in printed


@pytest.mark.soak
def test_thirty_kills_lose_nothing(tmp_path: Path, record_property: Record):
    assert "30 kills" in killed(tmp_path, 30, record_property)


class Watch:
    """A reporter that notes, after every epoch, the memory, the open files and how often JAX has compiled."""

    def __init__(self) -> None:
        self.compiled, self.rows, self._process = 0, [], psutil.Process()

    def __call__(self, *, epochs: int, start: int, metric: str) -> "Watch":
        return self

    def count(self, event: str, duration_secs: float, **_: Any) -> None:
        self.compiled += event.endswith("backend_compile_duration")

    def say(self, text: str) -> None:
        pass

    def epoch(self, row: dict[str, Any], *, best: float) -> None:
        if row["epoch"] % 10 == 0:
            gc.collect()
            if _TRIM is not None:  # what the allocator holds back is no growth
                _TRIM(0)
        self.rows.append((self._process.memory_info().rss, self._process.num_fds(), self.compiled))

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        pass


def soaked(config: Config, workdir: Path, settled: int, record_property: Record) -> None:
    watch = Watch()
    jax.monitoring.register_event_duration_secs_listener(watch.count)
    with jax.numpy_dtype_promotion("standard"):
        train_and_evaluate(config, workdir, progress=watch)
    memory, files, compiled = zip(*watch.rows, strict=True)
    growth = memory[-1] - memory[settled - 1]
    record_property(
        "tried",
        f"{len(memory)} epochs, at epoch {settled} and at the end: {memory[settled - 1] / 2**20:.1f} and "
        f"{memory[-1] / 2**20:.1f} MiB, {files[settled - 1]} and {files[-1]} open files, {compiled[settled - 1]} "
        f"and {compiled[-1]} programs compiled",
    )
    assert compiled[-1] == compiled[settled - 1] > 0
    assert min(files[-20:]) <= max(files[:settled])  # while a checkpoint is written there are some more
    assert growth <= 0.02 * memory[settled - 1]


def smoke(epochs: int) -> Config:
    given = [line.removeprefix("--").split("=") for line in SMOKE.read_text().splitlines() if line.startswith("--")]
    values = {name: value for name, value in given if name not in ("workdir", "epochs")}
    dataset = values.pop("dataset")
    return Config.from_dict(
        {"dataset": dataset, "epochs": epochs, "patience": epochs} | {k: int(v) for k, v in values.items()}
    )


def test_sixty_epochs_leave_memory_files_and_programs_as_they_are(tmp_path: Path, record_property: Record):
    small = Config(
        dataset="synthetic:users=60,items=40,clusters=3,seed=2",
        width=8,
        correlation_start=1,
        batch_size=128,
        softmax_negatives=32,
        modalities=("none",),
        eval_block=64,
        epochs=60,
        patience=60,
    )
    soaked(small, tmp_path / "run", 20, record_property)


@pytest.mark.soak
def test_five_hundred_epochs_of_the_smoke_preset(tmp_path: Path, record_property: Record):
    soaked(smoke(500), tmp_path / "run", 20, record_property)
