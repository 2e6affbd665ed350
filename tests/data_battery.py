"""The formats and their fixtures, shared by the tests of the readers."""

import warnings
from pathlib import Path

from slif_jax.data import Dataset, load
from slif_jax.data.findings import DataWarning

FIXTURES = Path(__file__).parent / "fixtures"
FORMATS = ("native", "mmrec", "recbole", "kgat", "matrices", "item_files")
WITH_KNOWLEDGE = ("native", "recbole", "kgat", "matrices")


def shop(name: str) -> Path:
    """The folder of the data set `shop` in a format."""
    return FIXTURES / name / "shop"


def quietly(folder: Path, **options) -> Dataset:
    """Loads, whatever was repaired."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return load(folder, **options)
