"""The folder of a run: what is written there, and the check that it belongs to this configuration."""

import contextlib
import errno
import fcntl
import json
import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from slif_jax.config import Config

PACKAGES = (
    "slif_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "jraph",
    "orbax-checkpoint",
    "numpy",
    "polars",
    "scikit-learn",
    "scipy",
)
_LOCK, _PARTIAL = "lock", ".partial"
_MAY_DIFFER = ("epochs", "gather_blocks")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

RESUME_MODES = ("auto", "never", "must")


class WorkdirError(ValueError):
    """The folder cannot be used for this run; the message says why and what to do."""


class CheckpointWarning(UserWarning):
    """A damaged checkpoint was passed over; the message names what was lost."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A training ended because it was asked to; everything is saved and the same call goes on."""


class Workdir:
    """Paths and files of one run.

    `config.json flags.txt environment.json metrics.jsonl result.json checkpoints/ plots/`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.checkpoints = self.path / "checkpoints"
        self.plots = self.path / "plots"

    def check(self, config: Config, *, resume: str) -> None:
        """Refuses a folder that this run cannot use, before anything slow is done. Writes nothing.

        Args:
          config: configuration of this run.
          resume: 'auto' goes on where there is something to go on from; 'must' raises where there is not; 'never'
            removes an earlier run of this folder.

        Raises:
          WorkdirError: if the folder belongs to another configuration, or holds files that are no run.
          ValueError: on another `resume`.
        """
        if resume not in RESUME_MODES:
            raise ValueError(f"`resume` must be one of {', '.join(RESUME_MODES)}: got '{resume}'.")
        if self.path.exists() and not self.path.is_dir():
            raise WorkdirError(f"{self.path} is a file. Name a folder with --workdir.")
        stored = self._config_to_resume(resume)
        if stored is None:
            if resume == "must":
                raise WorkdirError(f"{self.path} holds no run to resume. Train with --resume=auto first.")
            if self.holds_files():
                raise WorkdirError(f"{self.path} holds files, but no config.json of a run. Name an empty --workdir.")
        elif resume != "never" and (differences := config_differences(stored[0], config)):
            raise WorkdirError(
                f"{self.path} belongs to another configuration: {'; '.join(differences)}. "
                "Name another --workdir, or start over with --resume=never."
            )

    def holds_files(self) -> bool:
        """Whether anything is in the folder but what a process that was killed at its start may have left."""
        leavings = (_LOCK, "config.json" + _PARTIAL, "study.json" + _PARTIAL)
        return self.path.is_dir() and any(path.name not in leavings for path in self.path.iterdir())

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from running in this folder; the lock of one that is gone is taken over.

        A folder that did not exist is made, and goes again if nothing is written to it.

        Raises:
          WorkdirError: if another process runs here, which is named with its host; or nothing can be written here.
        """
        path = self.path / _LOCK
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = _locked(path)
        except OSError as error:
            raise WorkdirError(
                f"{self.path} cannot be written to ({error.strerror}). Name another --workdir."
            ) from None
        try:
            os.ftruncate(file, 0)
            os.write(file, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode() + b"\n")
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: nobody else can have taken it over
            os.close(file)
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def open(self, config: Config, *, resume: str, data_fingerprint: str) -> None:
        """Makes the folder ready, or refuses it.

        Args:
          config: configuration of this run.
          resume: as in `check`.
          data_fingerprint: hash of the data, which must be the same when resuming.

        Raises:
          WorkdirError: as `check`, and if the run in this folder was trained on other data.
        """
        self.check(config, resume=resume)
        stored = self._config_to_resume(resume)
        if stored is not None and resume == "never":
            self._remove_run()
            stored = None
        if stored is not None and stored[1] != data_fingerprint:
            raise WorkdirError(
                f"{self.path} was trained on other data than '{config.dataset}' holds now. "
                "Name another --workdir, or start over with --resume=never."
            )
        if stored is None:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_run_files(config, data_fingerprint, None)
        if not (self.path / "environment.json").is_file():
            self.write_json("environment.json", environment())

    def write_run_files(self, config: Config, data_fingerprint: str, flags_text: str | None) -> None:
        """Writes `config.json`, and `flags.txt` where there are flags."""
        self.write_json("config.json", {**config.to_dict(), "data_fingerprint": data_fingerprint})
        if flags_text is not None:
            self.write_text("flags.txt", flags_text)

    def _config_to_resume(self, resume: str) -> tuple[Config, str] | None:
        try:
            return self.stored_config()
        except WorkdirError:
            if resume != "never":
                raise
            return Config(), ""  # it goes anyway

    def stored_config(self) -> tuple[Config, str] | None:
        """The configuration of the run in this folder and the hash of its data, or None where there is no run.

        Raises:
          WorkdirError: if `config.json` is no configuration of this version.
        """
        try:
            stored = self.read_json("config.json")
        except WorkdirError as error:
            raise WorkdirError(f"{error} Or start over with --resume=never.") from None
        if stored is None:
            return None
        try:
            fingerprint = str(stored.pop("data_fingerprint", ""))
            return Config.from_dict(stored), fingerprint
        except (AttributeError, TypeError, ValueError) as error:
            raise WorkdirError(f"{self.path / 'config.json'} is no configuration of this version: {error}") from None

    def _remove_run(self) -> None:
        for folder in (self.checkpoints, self.plots, self.path / "tensorboard"):
            shutil.rmtree(folder, ignore_errors=True)
        names = ("environment.json", "metrics.jsonl", "result.json", "flags.txt", "test_users.npz")
        names += ("recommendations.tsv", "report.html")  # of the model that goes
        for path in (*(self.path / name for name in names), *self.path.glob("evaluation-*.json")):
            path.unlink(missing_ok=True)
        (self.path / "config.json").unlink()  # last: without it the rest would be files of a stranger

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The object in a file, or None where there is no such file."""
        path = self.path / name
        if not path.is_file():
            return None
        try:
            value = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise WorkdirError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}). Restore it.") from None
        except UnicodeDecodeError:
            raise WorkdirError(f"{path} is not UTF-8 text. Restore it.") from None
        if not isinstance(value, dict):
            raise WorkdirError(f"{path} must hold a JSON object: got a {type(value).__name__}. Restore it.")
        return value

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Writes a file at once: a reader sees the old one or the new one."""
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """As `write_json`."""
        replace_text(self.path / name, text)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Adds one epoch to `metrics.jsonl`."""
        path = self.path / "metrics.jsonl"
        with _errors_name(path), path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The epochs in `metrics.jsonl`; a last line that a crash cut short is left out.

        Raises:
          WorkdirError: if another line is no JSON object.
        """
        path = self.path / "metrics.jsonl"
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if isinstance(row, dict) and isinstance(row.get("epoch"), int):
                rows.append(row)
            elif number < len(lines):
                raise WorkdirError(f"{path}, line {number}: not an epoch. Remove the line; it is for plots alone.")
        return rows

    def keep_metrics(self, epochs: int) -> None:
        """Drops the epochs after `epochs` from `metrics.jsonl`: they are run again."""
        rows = [row for row in self.read_metrics() if row["epoch"] <= epochs]
        self.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def replace_text(path: Path, text: str) -> None:
    """Writes a file at once: a reader sees the old text or the new one, never a part."""
    partial = path.with_name(path.name + _PARTIAL)
    with _errors_name(path):
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError:  # a full disk: the old file stays, the part goes
            partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Gives the file's name to errors of the system that have none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def _locked(path: Path) -> int:
    """A descriptor of the lock file that no other process has locked."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:  # some network file systems: what the file says must do
                if _is_gone(path):
                    return file
            elif not isinstance(error, BlockingIOError):
                os.close(file)
                raise
            holder = _holder(path)
            os.close(file)
            who = f"process {holder[0]} on {holder[1]}" if holder else "another process"
            raise WorkdirError(
                f"{path.parent} is in use by {who}. Wait for it, or name another --workdir. If no such process is "
                f"there any more, remove {path}."
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)  # its holder removed it in this moment


def _holder(path: Path) -> tuple[int, str] | None:
    """Process and host that a lock file names."""
    try:
        named = json.loads(path.read_text())
        return int(named["process"]), str(named["host"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _is_gone(path: Path) -> bool:
    """Whether a lock file names nobody, or a process of this host that is not there."""
    holder = _holder(path)
    if holder is None:
        return True
    if holder[1] != socket.gethostname():
        return False
    try:
        os.kill(holder[0], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is there, and another user's
        pass
    return False


def config_differences(stored: Config, config: Config) -> list[str]:
    """Where a saved config differs, as 'field is a, was b'; what does not change the numbers of an epoch may differ."""
    now, was = config.to_dict(), stored.to_dict()
    return [
        f"{name} is {now[name]}, was {was[name]}" for name in now if name not in _MAY_DIFFER and now[name] != was[name]
    ]


def environment() -> dict[str, Any]:
    """Versions, device and machine of this process."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "cpu_count": os.cpu_count(),
        "packages": versions,
    }


def peak_memory_bytes() -> int:
    """The device's own count where it keeps one, else the largest resident size of this process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
