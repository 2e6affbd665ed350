"""Writing and reading again loses nothing, in the library and as a program."""

import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from data_battery import FORMATS, quietly, shop
from programs import run_program

from slif_jax.config import Config
from slif_jax.data import DataError, Dataset, Modality, load
from slif_jax.data.write import LAYOUTS, write
from slif_jax.graphs import build_graphs


def assert_same(one: Dataset, other: Dataset) -> None:
    assert one.split_fingerprint == other.split_fingerprint
    np.testing.assert_array_equal(one.triples, other.triples)
    assert (one.num_entities, one.num_relations) == (other.num_entities, other.num_relations)
    for ids in ("user_ids", "item_ids", "item_titles", "entity_names", "relation_names"):
        before, after = getattr(one, ids), getattr(other, ids)
        assert (before is None) == (after is None), ids
        if before is not None:
            np.testing.assert_array_equal(before, after)
    assert one.features.keys() == other.features.keys()
    for name, modality in one.features.items():
        again = other.features[name]
        np.testing.assert_array_equal(modality.present, again.present)
        np.testing.assert_array_equal(modality.values[modality.present], again.values[again.present])
        assert modality.values.dtype == again.values.dtype


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(name, layout, tmp_path):
    before = quietly(shop(name))
    write(before, tmp_path / "out", layout)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    after = load(tmp_path / "out", format=layout)  # and without a single warning
    assert_same(before, after)
    write(after, tmp_path / "again", layout)
    assert load(tmp_path / "again").fingerprint == after.fingerprint


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip_of_a_synthetic_data_set(layout, tmp_path):
    before = load("synthetic:users=40,items=30,degree=6,seed=2")
    write(before, tmp_path / "out", layout)
    after = load(tmp_path / "out")
    assert_same(before, after)
    config = Config(feature_neighbors=3)
    one, other = (jax.tree.leaves(build_graphs(data, config)) for data in (before, after))
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


def test_items_that_lack_a_modality_get_the_mean_for_mmrec(tmp_path):
    write(quietly(shop("native")), tmp_path / "out", "mmrec")
    values = np.load(tmp_path / "out" / "image_feat.npy")
    present = np.arange(9) != 4
    np.testing.assert_allclose(values[4], values[present].mean(axis=0), rtol=1e-6)
    assert (tmp_path / "out" / "missed_img_itemIDs.csv").read_text() == "4\n"


def test_what_is_refused(tmp_path):
    data = quietly(shop("native"))

    def failure(folder: Path, dataset: Dataset = data, layout: str = "native") -> str:
        with pytest.raises(DataError) as caught:
            write(dataset, folder, layout)
        return str(caught.value)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert failure(tmp_path / "full").endswith("full is not empty; name another folder.")
    assert failure(tmp_path / "full" / "file").endswith("is a file; name a folder.")
    assert failure(tmp_path / "new", layout="csv") == "`layout` must be one of native, mmrec: got 'csv'."
    odd = Modality(np.ones((9, 2), np.float32), np.ones(9, np.bool_))
    for name in ("../out", "image_present", ""):
        named = Dataset(**{**vars(data), "features": {name: odd}})
        assert failure(tmp_path / "new", named) == f"shop: modality '{name}' cannot be the name of a file."
    tabbed = Dataset(**{**vars(data), "user_ids": np.array(["a\tb"] * 12)})
    assert "cannot be written in column 'user_id'" in failure(tmp_path / "new", tabbed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]  # nothing half-written stays


def convert(*flags: str) -> subprocess.CompletedProcess[str]:
    return run_program(["-m", "experiments.convert", *flags])


def test_the_program(tmp_path):
    source, target = shutil.copytree(shop("mmrec"), tmp_path / "shop"), tmp_path / "out"
    done = convert(f"--from={source}", f"--to={target}")
    assert done.returncode == 0, done.stderr
    assert f"{target} is ready: split " in done.stdout
    assert "Warning: shop: 1 repeated rows were dropped from train.\n" in done.stderr
    assert_same(quietly(source), load(target))
    done = convert(f"--from={source}", f"--to={target}")
    assert (done.returncode, done.stderr) == (2, f"Error: {target} is not empty; name another folder.\n")


def test_folders_beside_the_target_are_left_alone(tmp_path, monkeypatch):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("do not touch")
    write(quietly(shop("native")), tmp_path / "out", "native")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.partial"]
    assert (tmp_path / "out.partial" / "thesis.txt").is_file()
    empty = tmp_path / "here"
    empty.mkdir()
    monkeypatch.chdir(empty)
    write(quietly(shop("native")), Path(), "native")
    assert (empty / "interactions.tsv").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "out", "out.partial"]
