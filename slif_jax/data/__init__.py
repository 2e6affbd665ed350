"""Data sets: `load` gives a checked `Dataset` from a name or a folder. Host only: NumPy, no jax."""

from slif_jax.data.checks import validate
from slif_jax.data.dataset import Dataset, Modality
from slif_jax.data.errors import DataError
from slif_jax.data.features import FilledRows, filled
from slif_jax.data.findings import DataWarning
from slif_jax.data.registry import load

__all__ = ["DataError", "DataWarning", "Dataset", "FilledRows", "Modality", "filled", "load", "validate"]
