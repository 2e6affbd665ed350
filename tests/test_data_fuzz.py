"""Damaged files of every format give a correct data set or one clear error: no traceback, no hang, no silent NaN."""

import random
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from data_battery import FORMATS, shop
from data_mutations import fresh_copy, mutate

from slif_jax.data import DataError, DataWarning, load, validate

_SECONDS = 5.0


def check(folder: Path, name: str, what: str) -> bool:
    """Loads a damaged folder; returns whether it could be read."""
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", DataWarning)
            data = load(folder, format=name)
    except DataError as error:
        text = str(error)
        assert text, what
        assert text.isprintable(), f"{what}: {text!r}"
        assert len(text) < 600, f"{what}: {text!r}"
        return False
    finally:
        assert time.process_time() - start < _SECONDS, what
    validate(data)
    for part in data.splits.values():
        assert part.min(initial=0) >= 0, what
        assert (part.max(axis=0, initial=-1) < (data.num_users, data.num_items)).all(), what
    assert data.num_entities < 100, what
    assert data.triples.max(initial=0) < max(data.num_entities, data.num_relations, 1), what
    for modality in data.features.values():
        assert np.isfinite(modality.values[modality.present]).all(), what
    assert len(data.item_ids) == data.num_items, what
    return True


def fuzz(name: str, folder: Path, seeds: range) -> int:
    """Returns how many damaged folders could be read."""
    read = 0
    for seed in seeds:
        fresh_copy(shop(name), folder)
        what = f"{name}, seed {seed}, {mutate(folder, random.Random(seed))}"
        try:
            read += check(folder, name, what)
        except AssertionError:
            raise
        except BaseException as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    return read


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name, tmp_path):
    read = fuzz(name, tmp_path / "shop", range(100))
    assert 10 <= read <= 95  # both outcomes are met


@pytest.mark.fuzz
@pytest.mark.parametrize("name", FORMATS)
def test_many_damaged_files(name, tmp_path):
    assert fuzz(name, tmp_path / "shop", range(1000, 6000)) >= 500
