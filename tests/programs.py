"""Starts Python programs for tests, as processes of their own that need not import JAX again.

    done = run_program(["-m", "experiments.train", "--epochs=2"], XLA_FLAGS=None)
    assert done.returncode == 0, done.stderr

A server, started once for each process of the tests, imports what the programs use and touches no device. A program is
a fork of it: arguments, variables, output, signals and exit status are its own; only modules are already loaded.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
# XLA's defaults take four times as long to compile, for programs that are small here and run a few times. What the
# tests of the command line start is compiled as users have it.
QUICK_XLA = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):  # 0.11 ends at once on a flag that it does not know
    QUICK_XLA += " --xla_cpu_use_fusion_emitters=false"

TINY_RUN = (
    "--dataset=synthetic:users=60,items=40,clusters=3,seed=2",
    "--width=8",
    "--modalities=none",
    "--noknowledge_graph",
    "--correlation_start=1",
    "--batch_size=256",
    "--softmax_negatives=32",
)
"""Flags of a training that takes moments."""


class Program:
    """A running program; as much of `subprocess.Popen` as tests need."""

    def __init__(self, args: Sequence[str], env: Mapping[str, str], stdout: Path, stderr: Path) -> None:
        """Starts it.

        Args:
          args: what follows `python` on the command line: `-m`, a module and its flags, or a script and its flags.
          env: all its environment variables.
          stdout: file for its output.
          stderr: file for its errors; may be the same one.
        """
        for path in (stdout, stderr):
            path.touch()  # to be read at once
        self.pid: int = _ask({"args": list(args), "env": dict(env), "stdout": str(stdout), "stderr": str(stderr)})
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status (negative: a signal), or None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"wait": self.pid})
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit status; `subprocess.TimeoutExpired` when it does not come within `timeout` seconds."""
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.02)
        return status

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def run_program(
    args: Sequence[str], timeout: float = 300.0, **variables: str | None
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, in the root of the repository.

    Args:
      args: as for `Program`.
      timeout: seconds after which it is killed, and the test fails.
      **variables: environment variables besides those of the tests; None removes one.

    Returns:
      Exit status and what it printed.
    """
    env = {name: value for name, value in (os.environ | variables).items() if value is not None}
    with tempfile.TemporaryDirectory(prefix="slif-jax-program-") as folder:
        stdout, stderr = Path(folder) / "stdout", Path(folder) / "stderr"
        program = Program(args, env, stdout, stderr)
        try:
            status = program.wait(timeout)
        finally:
            program.send_signal(9)
        texts = [path.read_text(errors="replace") for path in (stdout, stderr)]
    return subprocess.CompletedProcess(list(args), status, *texts)


@functools.cache
def _server() -> tuple[IO[str], IO[str]]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, __file__], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def end() -> None:
        process.communicate()  # closes its input, and with it the server ends

    atexit.register(end)
    return process.stdin, process.stdout


def _ask(request: dict[str, Any]) -> Any:
    to_server, from_server = _server()
    to_server.write(json.dumps(request) + "\n")
    to_server.flush()
    answer = from_server.readline()
    assert answer, "the server of programs has ended"
    return json.loads(answer)


def serve() -> None:
    """Starts programs and says how they ended, one line of JSON for each request; ends with its input."""
    import slif_jax

    for module in pkgutil.walk_packages(slif_jax.__path__, "slif_jax."):
        importlib.import_module(module.name)
    gc.freeze()  # what is loaded stays shared with the forks
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of JAX, which has no threads yet
                answer = os.fork()
            if not answer:
                _become(**request)
                return
        print(json.dumps(answer), flush=True)


def _become(args: list[str], env: dict[str, str], stdout: str, stderr: str) -> None:
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, stdout, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(env)
    import jax

    jax.config.update("jax_platforms", env.get("JAX_PLATFORMS"))  # read when it was imported
    if args[0] == "-m":
        sys.path[0], sys.argv = str(ROOT), args[1:]
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(args[0]).parent), args
        runpy.run_path(args[0], run_name="__main__")


if __name__ == "__main__":
    serve()
