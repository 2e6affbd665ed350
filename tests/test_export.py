"""An export gives the lists of `recommend` to a program that cannot import slif_jax."""

import hashlib
import json
import subprocess
import sys
from importlib import util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from slif_jax import correlation, recommend
from slif_jax.config import Config
from slif_jax.data.synthetic import synthetic
from slif_jax.export import PLATFORMS, check_folder, export, score, serialise_scorer
from slif_jax.graphs import build_graphs
from slif_jax.model import Encoded, Vectors, Views, make_model
from slif_jax.recommend import TrainedModel

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "score_export.py"
NUM_USERS, NUM_ITEMS, WIDTH = 30, 25, 4
# Runs the program named first with the other arguments, in a Python that has no slif_jax.
ISOLATED = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("slif_jax", "experiments"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Absent())
del sys.argv[0]
try:
    import slif_jax
except ModuleNotFoundError:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    """As `load_trained` gives it, with vectors of small integers: exact scores and ties."""
    dataset = synthetic(num_users=NUM_USERS, num_items=NUM_ITEMS, num_clusters=3, mean_degree=5.0, seed=1)
    config = Config(side_information=False, width=WIDTH)
    rng = np.random.default_rng(0)
    users, items = (jnp.asarray(rng.integers(-2, 3, (n, WIDTH)), jnp.float32) for n in (NUM_USERS, NUM_ITEMS))
    none_users, none_items, ones = jnp.zeros((NUM_USERS, 0)), jnp.zeros((NUM_ITEMS, 0)), jnp.ones(NUM_ITEMS)
    encoded = Encoded(
        final := Vectors(users, items), Views(users, {}), Views(items, {}), none_users, none_items, ones, final
    )
    graphs, model = build_graphs(dataset, config), make_model(dataset, config)
    return TrainedModel(dataset, encoded, config, 7, model, {}, graphs, correlation.empty(NUM_ITEMS, 2))


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model"
    export(trained, path)
    return path


def lists(trained, users, profile="full"):
    """What `recommend` gives: by user, item indices and scores."""
    seen = recommend.known_items(trained.dataset, profile)
    (block,) = recommend.top_n(trained.encoded, trained.dataset, users, n=NUM_ITEMS, seen=seen)
    return block


def test_the_example_is_about_twenty_lines_and_gives_the_lists_of_recommend(trained, folder):
    dataset, users = trained.dataset, np.array([2, 5, 11])
    assert sum(bool(line.strip()) for line in EXAMPLE.read_text().splitlines()) <= 25
    done = subprocess.run(
        [sys.executable, "-c", ISOLATED, str(EXAMPLE), str(folder), *dataset.user_ids[users]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    want = []
    for user, items, scores in zip(*lists(trained, users), strict=True):
        for item, value in zip(items[items >= 0], scores, strict=False):
            title = "" if dataset.item_titles is None else str(dataset.item_titles[item])
            want.append(f"{dataset.user_ids[user]}\t{dataset.item_ids[item]}\t{value:.6g}\t{title}")
    assert done.stdout.splitlines() == want


def test_one_artefact_for_every_platform_and_batch(trained, folder):
    scorer = jax_export.deserialize(bytearray((folder / "scorer.bin").read_bytes()))
    assert scorer.platforms == PLATFORMS
    with np.load(folder / "embeddings.npz") as arrays:
        users, items = arrays["users"], arrays["items"]
        bounds, seen_items = arrays["seen_indptr"], arrays["seen_items"]
    everybody = lists(trained, np.arange(NUM_USERS))
    longest = int(np.diff(bounds).max())
    for batch, width in (([3], longest), ([9, 0, 9, 29], longest + 3)):
        seen = np.full((len(batch), width), NUM_ITEMS, np.int32)
        for row, user in zip(seen, batch, strict=True):
            row[: bounds[user + 1] - bounds[user]] = seen_items[bounds[user] : bounds[user + 1]]
        best, scores = scorer.call(users, items, seen, np.array(batch, np.int32))
        np.testing.assert_array_equal(best, everybody.items[batch])
        np.testing.assert_array_equal(scores, everybody.scores[batch])


def test_the_artefact_holds_plain_operations_and_no_paths(folder):
    scorer = jax_export.deserialize(bytearray((folder / "scorer.bin").read_bytes()))
    calls = [line for line in str(scorer.mlir_module()).splitlines() if "custom_call" in line]
    assert all("@shape_assertion" in line for line in calls), calls  # checks of argument shapes alone
    assert b"slif_jax" not in (folder / "scorer.bin").read_bytes()
    assert str(Path(__file__).parents[1]).encode() not in (folder / "scorer.bin").read_bytes()


def test_the_tables_and_the_manifest(trained, folder):
    dataset = trained.dataset
    with np.load(folder / "embeddings.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["users"], trained.encoded.final.users)
        np.testing.assert_array_equal(arrays["items"], trained.encoded.final.items)
        np.testing.assert_array_equal(arrays["user_ids"], dataset.user_ids)
        np.testing.assert_array_equal(arrays["item_ids"], dataset.item_ids)
        owners = np.repeat(np.arange(NUM_USERS), np.diff(arrays["seen_indptr"]))
        pairs = set(zip(owners.tolist(), arrays["seen_items"].tolist(), strict=True))
        shapes = {name: list(arrays[name].shape) for name in arrays}
    assert pairs == set(map(tuple, recommend.known_items(dataset).tolist()))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {name: array["shape"] for name, array in manifest["arrays"].items()} == shapes
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert (manifest["epoch"], manifest["data_fingerprint"]) == (7, dataset.fingerprint)
    assert Config.from_dict(manifest["config"]) == trained.config
    assert manifest["scorer"]["top"] == NUM_ITEMS  # no more than there are
    assert "scorer.bin" in (folder / "README.md").read_text()


def test_an_export_replaces_an_export_and_nothing_else(trained, folder, tmp_path):
    path = tmp_path / "model"
    assert export(trained, path, top=3, profile="train")["profile"] == "train"
    with np.load(path / "embeddings.npz") as arrays:
        assert len(arrays["seen_items"]) == len(trained.dataset.train)
    assert export(trained, path, top=2)["scorer"]["top"] == 2
    assert sorted(tmp_path.iterdir()) == [path]
    (path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"holds 'thesis\.tex', which is no part of an export"):
        export(trained, path)
    assert (path / "thesis.tex").exists()
    with pytest.raises(NotADirectoryError, match="is a file"):
        check_folder(path / "thesis.tex")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        check_folder(tmp_path / "a" / "b")


def test_scores_where_nothing_is_left():
    users, items = jnp.ones((2, 1)), jnp.asarray([[1.0], [3.0], [3.0]])
    seen = jnp.asarray([[3, 3, 3], [1, 0, 3]], jnp.int32)
    best, scores = score(users, items, seen, jnp.asarray([0, 1], jnp.int32), top=3)
    np.testing.assert_array_equal(best, [[1, 2, 0], [2, -1, -1]])
    np.testing.assert_array_equal(scores, [[3, 3, 1], [3, -np.inf, -np.inf]])


@pytest.mark.parametrize("top", [0, 6])
def test_lists_of_impossible_length(top):
    with pytest.raises(ValueError, match=rf"^`top` must be between 1 and the number of items, 5: got {top}\.$"):
        serialise_scorer(5, 2, top=top)


def test_without_flatbuffers_one_line_says_what_to_install(monkeypatch):
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "flatbuffers" else find(name))
    with pytest.raises(ModuleNotFoundError, match=r"^Exports need the package flatbuffers: pip install flatbuffers\.$"):
        serialise_scorer(5, 2, top=1)
