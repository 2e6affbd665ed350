"""The folder of a run: what is written there, and the check that it belongs to this configuration."""

import json
import os
import platform
import resource
import shutil
import sys
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
)


RESUME_MODES = ("auto", "never", "must")


class WorkdirError(ValueError):
    """The folder cannot be used for this run; the message says why and what to do."""


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
        stored = self.stored_config()
        if stored is None:
            if resume == "must":
                raise WorkdirError(f"{self.path} holds no run to resume. Train with --resume=auto first.")
            if self.path.is_dir() and any(self.path.iterdir()):
                raise WorkdirError(f"{self.path} holds files, but no config.json of a run. Name an empty --workdir.")
        elif resume != "never" and (differences := config_differences(stored[0], config)):
            raise WorkdirError(
                f"{self.path} belongs to another configuration: {'; '.join(differences)}. "
                "Name another --workdir, or start over with --resume=never."
            )

    def open(self, config: Config, *, resume: str, data_fingerprint: str) -> bool:
        """Makes the folder ready, or refuses it.

        Args:
          config: configuration of this run.
          resume: as in `check`.
          data_fingerprint: hash of the data, which must be the same when resuming.

        Returns:
          Whether the folder holds an earlier run of this configuration.

        Raises:
          WorkdirError: as `check`, and if the run in this folder was trained on other data.
        """
        self.check(config, resume=resume)
        stored = self.stored_config()
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
            self.write_json("environment.json", environment())
        return stored is not None

    def write_run_files(self, config: Config, data_fingerprint: str, flags_text: str | None) -> None:
        """Writes `config.json`, and `flags.txt` where there are flags."""
        self.write_json("config.json", {**config.to_dict(), "data_fingerprint": data_fingerprint})
        if flags_text is not None:
            self.write_text("flags.txt", flags_text)

    def stored_config(self) -> tuple[Config, str] | None:
        """The configuration of the run in this folder and the hash of its data, or None where there is no run.

        Raises:
          WorkdirError: if `config.json` is no configuration of this version.
        """
        stored = self.read_json("config.json")
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
        names = ("config.json", "environment.json", "metrics.jsonl", "result.json", "flags.txt", "test_users.npz")
        names += ("recommendations.tsv", "report.html")  # of the model that goes
        for path in (*(self.path / name for name in names), *self.path.glob("evaluation-*.json")):
            path.unlink(missing_ok=True)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The object in a file, or None where there is no such file."""
        path = self.path / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise WorkdirError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from None
        except UnicodeDecodeError:
            raise WorkdirError(f"{path} is not UTF-8 text.") from None

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Writes a file at once: a reader sees the old one or the new one."""
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """As `write_json`."""
        replace_text(self.path / name, text)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Adds one epoch to `metrics.jsonl`."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The epochs in `metrics.jsonl`; a last line that a crash cut short is left out."""
        path = self.path / "metrics.jsonl"
        rows = []
        for line in path.read_text().splitlines() if path.is_file() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def keep_metrics(self, epochs: int) -> None:
        """Drops the epochs after `epochs` from `metrics.jsonl`: they are run again."""
        rows = [row for row in self.read_metrics() if row["epoch"] <= epochs]
        self.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def replace_text(path: Path, text: str) -> None:
    """Writes a file at once: a reader sees the old text or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def config_differences(stored: Config, config: Config) -> list[str]:
    """Where a saved config differs, as 'field is a, was b'; `epochs` may differ."""
    now, was = config.to_dict(), stored.to_dict()
    return [f"{name} is {now[name]}, was {was[name]}" for name in now if name != "epochs" and now[name] != was[name]]


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
