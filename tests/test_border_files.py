"""Files from outside, damaged or hostile: used, or refused in words, and never run."""

import ast
import dataclasses
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slif_jax import lists, recommend
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.data.synthetic import synthetic
from slif_jax.explain import Explanation, LikedItem, Triple
from slif_jax.explain_text import as_record, as_text
from slif_jax.report import html, report
from slif_jax.studies.run import open_study
from slif_jax.studies.statistics import read_users
from slif_jax.workdir import WorkdirError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def made() -> Dataset:
    return synthetic(num_users=12, num_items=9, num_clusters=2, mean_degree=4.0, modalities={"text": 3}, seed=1)


# Archives.


def _archive(path: Path, **changes: Any) -> Path:
    arrays = {
        "names": np.array(["recall@20"]),
        "counted": np.ones(2, np.bool_),
        "user_ids": np.array(["a", "b"]),
        "values": np.zeros((2, 1)),
        **changes,
    }
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    return path


def _header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_values_of_users_that_are_damaged(tmp_path: Path):
    path = _archive(tmp_path / "test_users.npz")
    whole = path.read_bytes()
    assert read_users(path, ["recall@20"], "all").values.shape == (2, 1)
    with pytest.raises(ValueError, match=r"has no ndcg@5: the run had another --topk"):
        read_users(path, ["ndcg@5"], "all")
    for content in (b"", whole[:-30], whole[:200], b"PK" + whole[9:], whole.replace(b"counted", b"kounted")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"test_users\.npz cannot be read: "):
            read_users(path, ["recall@20"], "all")
    for changes in ({"counted": np.arange(2)}, {"values": np.zeros((3, 1))}, {"values": np.array([{}], object)}):
        with pytest.raises(ValueError, match=r"test_users\.npz cannot be read: "):
            read_users(_archive(path, **changes), ["recall@20"], "all")
    with pytest.raises(ValueError, match="cannot be read"):
        read_users(tmp_path / "absent.npz", ["recall@20"], "all")


def test_archives_that_would_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = _archive(tmp_path / "test_users.npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("warm_item_values.npy", _header("(1000000000000, 1)") + bytes(64))
    with pytest.raises(ValueError, match="cannot be read"):
        read_users(path, ["recall@20"], "warm")
    monkeypatch.setattr("slif_jax.studies.statistics._MAX_BYTES", 1 << 20)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cold_item_values.npy", _header("(262144, 1)") + bytes(1 << 21))
    with pytest.raises(ValueError, match="it would unpack to 2 MiB"):
        read_users(path, ["recall@20"], "cold")


# What ids and titles hold stays text.

HOSTILE = "<script>alert(1)</script>\x1b[2J\u2028\x0b\"'&"


def test_hostile_names_in_what_is_written(made: Dataset):
    ids = np.array([f"{number}{HOSTILE}" for number in range(made.num_items)])
    dataset = dataclasses.replace(
        made,
        item_ids=ids,
        item_titles=np.array(["a\tb\r\nc\x1b[31m"] * made.num_items),
        entity_names=np.array([HOSTILE] * made.num_entities),
        relation_names=np.array([HOSTILE] * made.num_relations),
    )
    triple = Triple(0, made.num_entities - 1, True, 0.5, (1, 2))
    explanation = Explanation(0, 1, 0.5, 1, 3, 1, "cosine", (LikedItem(2, 0.5, None, 0.5),), (triple,), 1, 0.0, ())
    lines = as_text(explanation, dataset).split("\n")
    assert len(lines) == 7
    assert all(line.isprintable() for line in lines)
    record = json.loads(json.dumps(as_record(explanation, dataset)))
    assert record["item"] == ids[1]
    assert record["triples"][0]["relation"] == HOSTILE

    file = io.BytesIO()
    block = (np.array([0]), np.array([[1, 2]]), np.ones((1, 2), np.float32))
    lists.write_tsv([block], recommend.columns(dataset), file)
    rows = [row.split("\t") for row in file.getvalue().decode().split("\n")]
    assert [len(row) for row in rows] == [5, 5, 5, 1]
    assert [row[2] for row in rows[1:3]] == ids[1:3].tolist()

    page = html.page(HOSTILE, html.tag("p", HOSTILE), {"a": html.table(HOSTILE, [HOSTILE], [[HOSTILE]])}, HOSTILE)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 7


# Folders of runs and studies.


@pytest.mark.parametrize("text", ["[]", "{}", "3", '"x"', "null", '{"done": true, "kind": "seeds"}', '{"done": 1}'])
def test_a_page_of_damaged_files(tmp_path: Path, text: str):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(WorkdirError, match=r"is damaged|neither a run nor a study|must hold a JSON object"):
        report(tmp_path, num_users=0)
    (tmp_path / "study.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(Config(dataset="synthetic").to_dict()))
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(WorkdirError, match=r"is damaged|a run that is not finished|must hold a JSON object"):
        report(tmp_path, num_users=0)


def test_a_study_that_cannot_go_on(tmp_path: Path):
    for text in ("{}", '{"kind": "seeds", "settings": []}', '{"settings": {}}'):
        (tmp_path / "study.json").write_text(text)
        with (
            pytest.raises(WorkdirError, match=r"study\.json is damaged"),
            open_study(tmp_path, "seeds", {}, "seeds"),
        ):
            pass


# Nothing that runs what stands in a file.

FOLDERS = ("slif_jax", "experiments", "examples", "docs", "kernels")
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
RUNS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pickletools"}


def _complaints(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str | None] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        found += [f"import {name}" for name in names if name and name.split(".")[0] in RUNS]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if options.get("allow_pickle", "False") != "False" or options.get("shell", "False") != "False":
            found.append(ast.unparse(node))
        if called in ("eval", "exec", "os.system", "torch.load", "yaml.load") or called.endswith(".extractall"):
            found.append(ast.unparse(node))
    return found


def test_no_file_can_run_anything():
    assert len(SOURCES) > 100
    found = {str(path.relative_to(ROOT)): _complaints(path.read_text()) for path in SOURCES if not path.is_symlink()}
    assert {name: lines for name, lines in found.items() if lines} == {
        "slif_jax/data/pickles.py": ["import pickle", "import pickletools"]  # by stand-ins alone
    }
    for line in ("import joblib.x", "from pickle import loads", "np.load(p, allow_pickle=True)", "z.extractall(p)"):
        assert _complaints(line)


def test_arrays_of_objects_are_refused(tmp_path: Path):
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    path = _archive(tmp_path / "test_users.npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("warm_item_values.npy", file.getvalue())
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_users(path, ["recall@20"], "warm")
