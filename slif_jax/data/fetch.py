"""Fetches the MovieLens-100K tables that the registry package `recbole` carries as an example, and keeps them."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from slif_jax.data.errors import DataError

PACKAGE, VERSION = "recbole", "1.2.1"
WHEEL = f"{PACKAGE}-{VERSION}-py3-none-any.whl"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
FOLDER = "ml-100k"
FILES = tuple(f"ml-100k.{suffix}" for suffix in ("inter", "item", "kg", "link", "user"))
_MEMBERS = f"{PACKAGE}/dataset_example/{FOLDER}/"
_MAX_BYTES = 16 << 20
_MAX_WHEEL_BYTES = 64 << 20  # it has 2 MB
_TIMEOUT_SECONDS = 300
# pip itself has no limit: a process that may not write a larger file ends with an error instead.
_LIMITED_PIP = f"""
import runpy
try:
    import resource
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = {_MAX_WHEEL_BYTES} if most == resource.RLIM_INFINITY else min({_MAX_WHEEL_BYTES}, most)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
except ImportError:
    pass
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def default_data_dir() -> Path:
    """Returns this library's folder in the user's cache folder."""
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "slif_jax"


def ml_100k_folder(data_dir: Path) -> Path:
    """Returns the folder with the five tables, downloading them (2 MB) the first time.

    Args:
      data_dir: where `ml-100k/` is kept. A wheel put there by hand is used instead of a download.

    Returns:
      `data_dir / "ml-100k"`, complete.

    Raises:
      DataError: if a step fails; it says which, and what to do.
    """
    folder = data_dir / FOLDER
    if _complete(folder):
        return folder
    if folder.exists():
        missing = ", ".join(name for name in FILES if not (folder / name).is_file())
        raise DataError(f"{folder} is there but lacks {missing}: move it away, and run again.")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".fetch-") as scratch:
            wheel = data_dir / WHEEL
            if not wheel.is_file():
                wheel = _download(Path(scratch), by_hand=wheel)
            _check_hash(wheel)
            unpacked = Path(scratch) / FOLDER
            _unpack(wheel, unpacked)
            try:
                unpacked.rename(folder)
            except OSError:  # another process was faster
                if not _complete(folder):
                    raise
    except OSError as error:
        raise DataError(
            f"ml-100k: cannot write below {data_dir} ({error.strerror or error}); name another data_dir."
        ) from None
    return folder


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _download(scratch: Path, by_hand: Path) -> Path:
    what_else = f"Put {WHEEL} at {by_hand} and run again; or use --dataset=synthetic, which needs no network."
    if importlib.util.find_spec("pip") is None:
        raise DataError(f"ml-100k: cannot download, this Python has no pip. {what_else}")
    command = [sys.executable, "-c", _LIMITED_PIP, "download", "--no-deps", "--only-binary=:all:", "--retries=2"]
    command += ["--no-input", "--disable-pip-version-check", f"--dest={scratch}", f"{PACKAGE}=={VERSION}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(f"ml-100k: no download within {_TIMEOUT_SECONDS} seconds. {what_else}") from None
    wheel = scratch / WHEEL
    if done.returncode or not wheel.is_file():
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1].removeprefix("ERROR:").strip() if errors else f"pip ended with code {done.returncode}"
        if "Retrying" in done.stderr:  # pip's last line does not tell that there was no network
            reason = "the package index did not answer"
        raise DataError(f"ml-100k: cannot download {PACKAGE} {VERSION} ({reason}). {what_else}")
    return wheel


def _check_hash(wheel: Path) -> None:
    if wheel.stat().st_size > _MAX_WHEEL_BYTES:
        raise DataError(f"{wheel}: larger than {_MAX_WHEEL_BYTES >> 20} MiB, not that wheel; remove it and run again.")
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise DataError(f"{wheel}: expected SHA-256 {WHEEL_SHA256}, got {found}; remove the file and run again.")


def _unpack(wheel: Path, folder: Path) -> None:
    """Writes the five tables, under fixed names, and nothing else of the wheel.

    `zipfile` gives no more of a member than the size it declares, and an error where that is not all there is.
    """
    folder.mkdir()
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                if archive.getinfo(_MEMBERS + name).file_size > _MAX_BYTES:
                    raise DataError(f"{wheel}: {name} is larger than {_MAX_BYTES >> 20} MiB; the file is not used.")
                with archive.open(_MEMBERS + name) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{wheel}: not the expected wheel ({error}); remove the file and run again.") from None
