"""SIGTERM and Ctrl-C end a training after the epoch, saved; the second one at once."""

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from programs import TINY_RUN, Program

from experiments.stopping import STATUS, stop_on_signals
from slif_jax.config import Config
from slif_jax.train import train_and_evaluate
from slif_jax.workdir import Stopped, Workdir

FLAGS = (
    *TINY_RUN,
    "--eval_block=64",
    "--checkpoint_every=1000",
    "--patience=1000000",
    "--progress=line",
)


@pytest.fixture
def request_stop() -> Iterator:
    with stop_on_signals() as request:
        yield request


def wait_until(condition, what: str, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_answered_at_once_and_asks_for_a_stop(capfd: pytest.CaptureFixture, number: signal.Signals):
    before = signal.getsignal(number)

    def training() -> None:
        with stop_on_signals() as request:
            assert not request()
            os.kill(os.getpid(), number)
            wait_until(request, "no answer")
            raise Stopped("Stopped after epoch 3.")

    with pytest.raises(SystemExit) as ended:
        training()
    assert ended.value.code == STATUS[number]
    assert signal.getsignal(number) is before
    printed = capfd.readouterr().err
    assert f"{number.name}: stopping after this epoch" in printed
    assert "Stopped after epoch 3." in printed


def test_other_signals_are_let_through(request_stop):
    got = []
    before = signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
    try:
        request_stop()
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until(lambda: got, "SIGUSR1 was swallowed")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not request_stop()


SCRIPT = """
import sys, time
from experiments.stopping import stop_on_signals
with stop_on_signals() as request:
    if sys.argv[1] == "twice":
        request()
    print("ready", flush=True)
    time.sleep(60)
"""


def start(args: Sequence[str], folder: Path) -> tuple[Program, Path]:
    output = folder / "output.txt"
    output.unlink(missing_ok=True)
    return Program(args, os.environ, output, output), output


@pytest.mark.parametrize(("when", "signals"), [("before any epoch", 1), ("twice", 2)])
def test_where_there_is_nothing_to_save_the_process_ends_at_once(tmp_path: Path, when: str, signals: int):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process, output = start([str(script), when], tmp_path)
    wait_until(lambda: "ready" in output.read_text(), "no start")
    for _ in range(signals - 1):
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "SIGTERM: stopping after this epoch" in output.read_text(), "no answer")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75
    assert "same command" in output.read_text()


def wait_for_epochs(folder: Workdir, epochs: int, process: Program) -> None:
    wait_until(lambda: len(folder.read_metrics()) >= epochs or process.poll() is not None, "no epochs")


@pytest.mark.usefixtures("standard_promotion")
def test_a_training_saves_and_goes_on_to_the_same_numbers(tmp_path: Path):
    folder, metrics, done = Workdir(tmp_path / "run"), tmp_path / "run" / "metrics.jsonl", 0
    for number, status in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        command = ["-m", "experiments.train", *FLAGS, f"--workdir={folder.path}", "--epochs=100000"]
        process, output = start(command, tmp_path)
        wait_for_epochs(folder, done + 3, process)
        process.send_signal(number)
        ended, printed = process.wait(300), output.read_text()
        assert ended == status, printed
        assert f"{number.name}: stopping after this epoch" in printed
        last = len(folder.read_metrics())
        assert f"Stopped after epoch {last}: the same command goes on from there." in printed
        assert (folder.checkpoints / str(last)).is_dir()  # checkpoint_every would not have saved it
        assert (f"Going on after epoch {done} of" in printed) == (done > 0)
        assert not (folder.path / "lock").exists()
        done = last
    config = Config.from_dict(
        {k: v for k, v in json.loads((folder.path / "config.json").read_text()).items() if k != "data_fingerprint"}
    )
    unbroken = Workdir(tmp_path / "unbroken")

    def enough() -> bool:
        return len(unbroken.read_metrics()) >= done

    with pytest.raises(Stopped, match=f"Stopped after epoch {done}"):
        train_and_evaluate(config, unbroken.path, progress="off", should_stop=enough)
    assert (unbroken.path / "metrics.jsonl").read_text() == metrics.read_text()
