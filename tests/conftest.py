"""Strict settings for every test: what JAX would only warn about is an error here."""

import os
import tempfile

from programs import QUICK_XLA

# Before jax is imported: eight virtual devices, so that tests of sharding run anywhere.
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {QUICK_XLA} {os.environ.get('XLA_FLAGS', '')}"
# Several tests, also those in other processes, run the same program: it is compiled once per session.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the process that starts the others, or the only one
    _CACHE = tempfile.TemporaryDirectory(prefix="slif-jax-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED_DATASETS = Path(__file__).resolve().parents[2] / "shared" / "datasets"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first; tests that need a GPU say why they are skipped."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    if not any(device.platform in ("gpu", "cuda") for device in jax.devices()):
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU found"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests have tried, also those that other processes have run."""
    for report in (*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")):
        for name, value in report.user_properties:
            if name == "tried":
                terminalreporter.section(report.nodeid)
                terminalreporter.write_line(str(value).rstrip())


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """For tests that run the optimizer: optax multiplies floats by its integer step count."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def ml_100k_mkg() -> Path:
    """A folder with real data in the native layout."""
    return _shared("ml-100k-mkg")


@pytest.fixture(scope="session")
def tiktok() -> Path:
    """Another one: sparse, two modalities, no knowledge graph."""
    return _shared("tiktok")


def _shared(name: str) -> Path:
    folder = SHARED_DATASETS / name
    if not folder.is_dir():
        pytest.skip(f"the data set {name} is not beside the repository ({folder})")
    return folder
