"""What only shows over time: runs killed again and again, memory, recompilation, open files.

The short forms run with the other tests, the long ones with `make soak`. What they tried and what was lost is printed
at the end of the session (`record_property`, conftest.py).
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import QUICK_XLA

ROOT = Path(__file__).resolve().parents[1]
Record = Callable[[str, object], None]


def tried(script: str, *arguments: str, record_property: Record) -> str:
    """What a script of this folder prints. It has the devices that a user's program has, not those of the tests."""
    command = [sys.executable, str(ROOT / "tests" / script), *arguments]
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "XLA_FLAGS": QUICK_XLA}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    record_property("tried", done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_runs_killed_at_any_moment_lose_nothing(tmp_path: Path, record_property: Record):
    printed = tried("killed_runs.py", "--kills=4", f"--folder={tmp_path}", record_property=record_property)
    assert "4 kills" in printed
    assert "none differ from the unbroken run" in printed


@pytest.mark.soak
def test_thirty_kills_lose_nothing(tmp_path: Path, record_property: Record):
    printed = tried("killed_runs.py", "--kills=30", f"--folder={tmp_path}", record_property=record_property)
    assert "30 kills" in printed
    assert "none differ from the unbroken run" in printed


def test_sixty_epochs_leave_memory_files_and_programs_as_they_are(tmp_path: Path, record_property: Record):
    printed = tried("watched_run.py", "--epochs=60", f"--folder={tmp_path}", record_property=record_property)
    assert printed.startswith("60 epochs")
    assert "grew" not in printed


@pytest.mark.soak
def test_five_hundred_epochs_of_the_smoke_preset(tmp_path: Path, record_property: Record):
    smoke = ROOT / "experiments" / "presets" / "smoke.flags"
    arguments = ("--epochs=500", f"--folder={tmp_path}", f"--flagfile={smoke}")
    printed = tried("watched_run.py", *arguments, record_property=record_property)
    assert printed.startswith("500 epochs")
    assert "grew" not in printed
