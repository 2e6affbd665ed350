"""Starts one program several times, as several hosts would, for tests.

    with start_processes([WORKER, "--job=collectives"]) as processes:
        for done in processes.wait():
            assert done.status == 0, done.output

A host is a process with virtual CPU devices of its own; they meet on a free port of this machine.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from programs import QUICK_XLA, ROOT, Program

WORKER = str(ROOT / "tests" / "multihost_worker.py")
# Long, for machines that have much else to do; what hangs is ended by it.
PATIENCE = 600.0


class Done(NamedTuple):
    """An ended process: its exit status (negative: a signal), all it printed, and the seconds it was waited for."""

    status: int
    output: str
    seconds: float

    @property
    def result(self) -> Any:
        """What a job of the worker returned."""
        lines = [line for line in self.output.splitlines() if line.startswith("RESULT ")]
        assert lines, self.output
        return json.loads(lines[-1].removeprefix("RESULT "))


class Processes:
    """The running processes, by their number."""

    def __init__(self, running: list[Program], outputs: list[Path]) -> None:
        self.running, self._outputs = running, outputs

    def output(self, index: int) -> str:
        """What a process has printed so far."""
        return self._outputs[index].read_text(errors="replace")

    def wait_for(self, text: str, index: int, timeout: float = PATIENCE) -> None:
        """Returns when a process has printed `text`; fails when it ends before, or is too slow."""
        end = time.monotonic() + timeout
        while text not in self.output(index):
            assert self.running[index].poll() is None, f"process {index} ended:\n{self.output(index)}"
            assert time.monotonic() < end, f"process {index} never printed '{text}':\n{self.output(index)}"
            time.sleep(0.05)

    def wait_one(self, index: int, timeout: float = PATIENCE) -> Done:
        """Waits for the end of a process; fails when it does not come in time."""
        start = time.monotonic()
        try:
            status = self.running[index].wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"process {index} hangs after {timeout} s:\n{self.output(index)}") from None
        return Done(status, self.output(index), time.monotonic() - start)

    def last_words(self, index: int, timeout: float = 60.0) -> str:
        """The line that a shell prints when a process is gone: it comes a moment after the end."""
        end = time.monotonic() + timeout
        while True:
            lines = self.output(index).splitlines()
            if lines and lines[-1].startswith("Error: ") and self.output(index).endswith("\n"):
                return lines[-1]
            assert time.monotonic() < end, f"process {index} had no last words:\n{self.output(index)}"
            time.sleep(0.05)

    def wait(self, timeout: float = PATIENCE) -> list[Done]:
        """Waits for all of them."""
        return [self.wait_one(index, timeout) for index in range(len(self.running))]


@contextlib.contextmanager
def start_processes(
    script_or_args: str | Sequence[str],
    num_processes: int = 2,
    devices_each: int = 4,
    env: Mapping[str, str | None] | None = None,
    *,
    start: Sequence[int] | None = None,
) -> Iterator[Processes]:
    """Starts a Python program `num_processes` times, with the flags that bring the processes together.

    Args:
      script_or_args: a script, or what follows `python` on the command line, as in `["-m", "experiments.train", ...]`.
        `--coordinator_address --num_processes --process_id` are added.
      num_processes: how many.
      devices_each: virtual CPU devices of each.
      env: environment variables besides this process's own; None removes one.
      start: the numbers that are started; None: all.

    Yields:
      The processes; what still runs at the end is killed.
    """
    args = [script_or_args] if isinstance(script_or_args, str) else list(script_or_args)
    variables = dict(os.environ) | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices_each} {QUICK_XLA}",
        "JAX_PLATFORMS": "cpu",
    }
    for name, value in (env or {}).items():
        variables.pop(name, None)
        if value is not None:
            variables[name] = value
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory(prefix="slif-jax-hosts-", ignore_cleanup_errors=True) as folder:
        outputs: list[Path] = []
        running: list[Program] = []
        try:
            for index in range(num_processes) if start is None else start:
                flags = [
                    f"--coordinator_address={address}",
                    f"--num_processes={num_processes}",
                    f"--process_id={index}",
                ]
                outputs.append(Path(folder) / f"{index}.txt")
                running.append(Program([*args, *flags], variables, outputs[-1], outputs[-1]))
            yield Processes(running, outputs)
        finally:
            for process in running:
                process.send_signal(signal.SIGKILL)
                process.wait(PATIENCE)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
