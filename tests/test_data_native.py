"""Native folders: what is read, and the exact message for everything that can be wrong."""

import dataclasses
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slif_jax.data import DataError, Dataset, Modality, filled, load, validate

ROOT = Path(__file__).resolve().parents[1]
TINY = Path(__file__).parent / "fixtures" / "native" / "tiny"
SHARED = ROOT.parent / "shared" / "datasets"


@pytest.fixture
def folder(tmp_path):
    """A copy of the tiny folder, to be spoilt."""
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def edit(path: Path, line: int, text: str) -> None:
    """Replaces a line, counted from 1 as people do."""
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text + "\n")


def message(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_reads_the_tiny_folder():
    data = load(TINY)
    assert (data.name, data.num_users, data.num_items) == ("tiny", 12, 8)
    assert (data.num_entities, data.num_relations) == (12, 2)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 27, "valid": 12, "test": 12}
    np.testing.assert_array_equal(data.train[:5], [[0, 2], [0, 3], [0, 5], [0, 7], [1, 1]])
    np.testing.assert_array_equal(data.valid[:3], [[0, 1], [1, 3], [2, 2]])
    np.testing.assert_array_equal(data.triples[:3], [[0, 0, 8], [0, 1, 10], [1, 0, 9]])
    assert data.train.dtype == data.triples.dtype == np.int32
    assert list(data.features) == ["text", "visual"]
    assert data.features["text"].values.dtype == np.float32  # float64 on disk
    assert isinstance(np.asanyarray(data.features["visual"].values), np.memmap)
    assert data.features["text"].present.all()
    np.testing.assert_array_equal(np.flatnonzero(~data.features["visual"].present), [2])
    assert data.user_ids[3] == "c103"
    assert data.item_ids.tolist() == [f"B{item:02d}X" for item in range(8)]
    assert data.item_titles is not None
    assert data.entity_names is not None
    assert data.relation_names is not None
    assert data.item_titles.tolist()[2:4] == ['The "Quoted (1992)', "Red Chair (1993)"]
    assert data.item_titles[6] == "Café"  # no year
    assert data.entity_names[[0, 8, 11]].tolist() == ["", "red", "oak"]
    assert data.relation_names.tolist() == ["colour", "kind"]


def test_needs_only_interactions(folder):
    for path in folder.iterdir():
        if path.name != "interactions.tsv":
            path.unlink()
    data = load(folder)
    assert (data.num_entities, data.num_relations, data.triples.shape) == (8, 0, (0, 3))
    assert data.features == {}
    assert data.user_ids.tolist() == [str(user) for user in range(12)]
    assert data.item_titles is None
    assert data.relation_names is None
    assert data.entity_names is None
    assert "knowledge graph       none" in data.summary()


def test_windows_line_ends_byte_order_mark_and_empty_last_lines(folder):
    before = load(folder).fingerprint
    for path in folder.glob("*.tsv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert load(folder).fingerprint == before


def test_order_of_rows_does_not_matter_and_repeats_are_counted(folder):
    before = load(folder).fingerprint
    path = folder / "interactions.tsv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows), rows[2], rows[2]]) + "\n")
    append(folder / "kg.tsv", "0\t0\t8")
    with pytest.warns(UserWarning, match="repeated") as caught:
        assert load(folder).fingerprint == before
    assert [str(warning.message) for warning in caught] == [
        "tiny: 2 repeated rows were dropped from train.",
        "tiny: 1 repeated triples were dropped.",
    ]


def test_items_table_adds_items_without_interactions(folder):
    append(folder / "items.tsv", "8\tB08X\tNew\t1999")
    (folder / "kg.tsv").unlink()
    for name, width in (("visual", 4), ("text", 3)):
        np.save(folder / f"{name}.npy", np.ones((9, width), np.float32))
    (folder / "visual_present.npy").unlink()
    data = load(folder)
    assert (data.num_items, data.item_ids[8]) == (9, "B08X")


def test_arrays_are_read_only_and_the_dataset_frozen():
    data = load(TINY)
    for array in (data.train, data.triples, data.item_ids, data.features["text"].values, data.features["text"].present):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_summary():
    assert (
        load(TINY).summary()
        == """\
data set              tiny
users                 12
items                 8 (8 in train)
interactions          51 (density 53.125%)
train / valid / test  27 / 12 / 12
entities              12 (items included)
triples               8 in 2 relations
text                  3 wide, float32, 8 of 8 items
visual                4 wide, float16, 7 of 8 items
fingerprint           dc0d0867a59750fb"""
    )


def test_other_byte_order(folder):
    before = load(folder).fingerprint
    np.save(folder / "visual.npy", np.load(folder / "visual.npy").astype(">f2"))
    assert load(folder).features["visual"].values.dtype.isnative
    assert load(folder).fingerprint == before


def test_absent_rows_may_hold_anything_and_filled_hides_them(folder):
    values = np.load(folder / "visual.npy")
    values[2] = np.nan
    np.save(folder / "visual.npy", values)
    shown = filled(load(folder).features["visual"])
    assert shown.dtype == np.float32
    np.testing.assert_array_equal(shown[2], 0)
    np.testing.assert_array_equal(shown[[0, 1, 3]], values[[0, 1, 3]].astype(np.float32))


def test_a_row_of_zeros_is_present(folder):
    np.save(folder / "text.npy", np.zeros((8, 3)))
    assert load(folder).features["text"].present.all()


@pytest.mark.parametrize(
    ("line", "text", "expected"),
    [
        (10, "B00X\t1\ttrain\t1", "interactions.tsv, line 10: expected an integer in column 'item', got 'B00X'."),
        (10, "\t1\ttrain\t1", "interactions.tsv, line 10: expected an integer in column 'item', got ''."),
        (10, "1", "interactions.tsv, line 10: expected an integer in column 'user', got ''."),
        (10, "", "interactions.tsv, line 10: expected an integer in column 'user', got ''."),
        (10, "1.0\t1\ttrain\t1", "interactions.tsv, line 10: expected an integer in column 'item', got '1.0'."),
        (3, "-1\t0\ttest\t1", "interactions.tsv, line 3: an id must be 0 or more in column 'item', got '-1'."),
        (
            3,
            "4\t3000000000\ttest\t1",
            "interactions.tsv, line 3: an id must be below 2**31 - 1 in column 'user', got '3000000000'.",
        ),
        (
            5,
            "3\t0\tdev\t1",
            "interactions.tsv, line 5: expected train, valid or test in column 'split', got 'dev'.",
        ),
        (5, "3\t0\ttrain\t1\t7", "interactions.tsv, line 5: expected 4 columns, got 5."),
        (1, "item\tuser\tx_label\tw", "interactions.tsv: column 'split' is missing; found item, user, x_label, w."),
        (
            5,
            "4\t0\ttrain\t1",
            "interactions.tsv, line 3: user 0 and item 4 are in train and in test; a pair may be in one split only.",
        ),
        (
            3,
            "1\t0\ttest\t1",
            "interactions.tsv, line 3: user 0 and item 1 are in valid and in test; a pair may be in one split only.",
        ),
        (
            5,
            "3\t13\ttrain\t1",
            "interactions.tsv: user 12 is missing; users must be numbered 0 to 13 without a gap.",
        ),
        (
            5,
            "9\t0\ttrain\t1",
            "interactions.tsv and items.tsv: item 8 is missing; items must be numbered 0 to 9 without a gap.",
        ),
        (
            5,
            "2000000000\t0\ttrain\t1",
            "interactions.tsv and items.tsv: item 8 is missing; items must be numbered 0 to 2000000000 without a gap.",
        ),
    ],
)
def test_wrong_interactions(folder, line, text, expected):
    edit(folder / "interactions.tsv", line, text)
    assert message(folder) == expected


def test_wrong_whole_interaction_files(folder):
    path = folder / "interactions.tsv"
    text = path.read_text()
    path.write_text(text.replace("train", "test"))
    assert message(folder) == "interactions.tsv: no row is in split 'train'; there is nothing to learn from."
    path.write_text("user\titem\tsplit\n")
    assert message(folder) == "interactions.tsv: no row is in split 'train'; there is nothing to learn from."
    path.write_text("")
    assert message(folder) == "interactions.tsv: the file is empty; its first line must name the columns."
    path.write_bytes(text.encode().replace(b"valid", b"v\xe9lid", 1))
    assert message(folder) == "interactions.tsv, line 2: not UTF-8 text."
    path.write_text(text.replace("\t0\t", "\t12\t"))
    assert message(folder) == "interactions.tsv: user 0 is missing; users must be numbered 0 to 12 without a gap."


@pytest.mark.parametrize(
    ("name", "line", "text", "expected"),
    [
        ("items.tsv", 4, "3\tB\tAgain\t1", "items.tsv, line 4: item 3 is named a second time."),
        ("items.tsv", 4, "x\tB\tAgain\t1", "items.tsv, line 4: expected an integer in column 'item', got 'x'."),
        ("items.tsv", 1, "id\ta\tb\tc", "items.tsv: column 'item' is missing; found id, a, b, c."),
        ("users.tsv", 13, "12\tc112", "users.tsv, line 13: user 12 has no interaction."),
        ("kg.tsv", 3, "3\t0\tred", "kg.tsv, line 3: expected an integer in column 'tail', got 'red'."),
        ("kg.tsv", 3, "3\t-2\t8", "kg.tsv, line 3: an id must be 0 or more in column 'relation', got '-2'."),
        ("kg.tsv", 1, "h\tr\tt", "kg.tsv: column 'head' is missing; found h, r, t."),
        ("entities.tsv", 3, "8\tblue", "entities.tsv, line 3: entity 8 is named a second time."),
        ("relations.tsv", 2, "a\t0", "relations.tsv, line 2: expected an integer in column 'relation', got 'a'."),
    ],
)  # fmt: skip
def test_wrong_tables(folder, name, line, text, expected):
    edit(folder / name, line, text)
    assert message(folder) == expected


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("visual", np.ones((7, 4), np.float32), "visual.npy: expected 8 rows, one per item, got 7."),
        ("visual", np.ones(8, np.float32), "visual.npy: expected an array [items, width], got shape (8,)."),
        ("visual", np.ones((8, 0), np.float32), "visual.npy: expected an array [items, width], got shape (8, 0)."),
        ("visual", np.ones((8, 4), np.int64), "visual.npy: expected float16, float32 or float64, got int64."),
        ("visual", np.full((8, 4), np.nan), "visual.npy, row 0: expected finite numbers, got nan."),
        ("text", np.diag([1.0, 1, 1, 1, 1, np.inf, 1, 1]), "text.npy, row 5: expected finite numbers, got inf."),
        ("text", np.diag([1.0, 1, -1e300, 1, 1, 1, 1, 1]), "text.npy, row 2: expected finite numbers, got -inf."),
        ("text_present", np.ones(7, bool), "text_present.npy: expected bool of shape (8,), got bool of shape (7,)."),
        ("text_present", np.ones(8, np.int8), "text_present.npy: expected bool of shape (8,), got int8 of shape (8,)."),
        ("sound_present", np.ones(8, bool), "sound_present.npy: there is no sound.npy beside it."),
    ],
)  # fmt: skip
def test_wrong_features(folder, name, array, expected):
    np.save(folder / f"{name}.npy", array)
    assert message(folder) == expected


def test_nothing_is_unpickled(folder):
    np.save(folder / "visual.npy", np.array([{"a": 1}] * 8, dtype=object), allow_pickle=True)
    assert message(folder) == "visual.npy: holds Python objects, which are not read; save it as floats."
    (folder / "visual.npy").write_bytes(pickle.dumps(os.getcwd))
    assert message(folder) == "visual.npy: not a complete .npy file."
    (folder / "visual.npy").write_bytes((TINY / "visual.npy").read_bytes()[:-8])
    assert message(folder) == "visual.npy: not a complete .npy file."
    np.savez(folder / "visual", a=np.ones(8))
    (folder / "visual.npz").rename(folder / "visual.npy")
    assert message(folder) == "visual.npy: expected one array, got an archive of several."


def test_names_and_formats(folder, tmp_path, monkeypatch):
    def failure(name, **options):
        with pytest.raises(DataError) as caught:
            load(name, **options)
        return str(caught.value)

    needs = (
        "it must hold interactions.tsv (native), or a .inter file with userID, itemID (mmrec), or a .inter file with "
        "user_id:token, item_id:token (recbole), or train.txt (kgat), or trnMat.pkl (matrices), or train.tsv or "
        "dataset.tsv (item_files)."
    )
    built_in = f"Built in: ml-100k, synthetic. Anything else must be a folder: {needs}"
    assert failure("ml-10k", data_dir=folder) == f"Unknown data set 'ml-10k'. Did you mean 'ml-100k'? {built_in}"
    assert failure("tinny", data_dir=tmp_path) == f"Unknown data set 'tinny'. Did you mean 'tiny'? {built_in}"
    assert failure("qqqq", data_dir=tmp_path / "none") == f"Unknown data set 'qqqq'. {built_in}"
    known = "auto, native, mmrec, recbole, kgat, matrices, item_files"
    expected = f"Unknown format 'nativ'. Did you mean 'native'? Known: {known}."
    assert failure(folder, format="nativ") == expected
    (folder / "interactions.tsv").rename(folder / "inter.tsv")
    assert failure(folder) == f"{folder} is no data set: {needs}"
    assert failure(folder, format="native") == f"interactions.tsv: no such file in {folder}."
    (folder / "inter.tsv").rename(folder / "interactions.tsv")
    assert load("tiny", data_dir=tmp_path).num_users == 12
    folder.rename(tmp_path / "ml-100k")
    monkeypatch.chdir(tmp_path)
    assert load("./ml-100k").name == "ml-100k"


def test_fingerprints(folder):
    data = load(TINY)
    assert data.fingerprint == "dc0d0867a59750fbff57a1067dd84ac0777cec1e6feb596f0991ce7630b168c3"
    assert data.split_fingerprint == "41f9332e46bbdaed1d2dcb0be8d550d9680dacdd71193c50eb319620b90d2eb1"
    edit(folder / "kg.tsv", 2, "0\t1\t8")
    graph = load(folder)
    assert graph.fingerprint != data.fingerprint
    assert graph.split_fingerprint == data.split_fingerprint
    edit(folder / "kg.tsv", 2, "0\t0\t8")
    assert load(folder).fingerprint == data.fingerprint
    mask = np.load(TINY / "visual_present.npy")
    np.save(folder / "visual_present.npy", ~mask)
    assert load(folder).fingerprint != data.fingerprint
    np.save(folder / "visual_present.npy", mask)
    edit(folder / "interactions.tsv", 4, "2\t0\tvalid\t1")
    assert load(folder).split_fingerprint != data.split_fingerprint


@pytest.mark.parametrize("name", ["knowledge", "collaborative", "walks"])
def test_a_modality_is_not_named_as_a_part_of_the_model(folder: Path, name: str):
    np.save(folder / f"{name}.npy", np.ones((8, 3), np.float32))
    assert message(folder) == f"{name}.npy: '{name}' is a part of the model, no name for a modality. Rename it."


def test_validate_without_a_file():
    data = load(TINY)

    def failure(**changes) -> str:
        with pytest.raises(DataError) as caught:
            validate(dataclasses.replace(data, **changes))
        return str(caught.value)

    pairs = np.array([[0, 1], [3, 9]], np.int32)
    assert failure(train=pairs) == "train, pair (3, 9): item 9 is outside 0 to 7."
    assert failure(train=pairs[::-1]) == "train, pair (3, 9): item 9 is outside 0 to 7."
    assert failure(train=data.train[::-1]) == "train, row 1: rows must be sorted by user, then item, without repeats."
    assert failure(test=data.test.astype(np.int64)) == "test: expected int32 of shape [n, 2], got int64 of (12, 2)."
    assert failure(train=data.train[:0]) == "tiny: no interaction is in train; there is nothing to learn from."
    assert failure(num_relations=1, relation_names=None) == "triples, row 1: relation 1 is outside 0 to 0."
    assert failure(item_ids=data.item_ids[:3]) == "item_ids: expected 8 strings, got <U4 of shape (3,)."
    assert failure(num_entities=7).startswith("tiny: the items are the first entities, so num_entities must be")
    features = {"text": Modality(np.full((8, 2), np.nan, np.float32), np.arange(8) == 6)}
    assert failure(features=features) == "text, row 6: expected finite numbers, got nan."
    features = {"text": Modality(np.ones((8, 2), np.float32), np.ones(8))}
    expected = "text_present: expected bool of shape (8,), got float64 of shape (8,)."
    assert failure(features=features) == expected


def test_importing_loads_nothing_heavy():
    code = "import sys, slif_jax.data; print(*sorted({'jax', 'polars', 'sklearn', 'scipy'} & sys.modules.keys()))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == ""


def test_a_million_rows_and_one_bad_cell(tmp_path):
    users = np.arange(1_000_000) // 10
    items = np.arange(1_000_000) % 1000
    lines = [f"{user}\t{item}\ttrain" for user, item in zip(users.tolist(), items.tolist(), strict=True)]
    (tmp_path / "interactions.tsv").write_text("user\titem\tsplit\n" + "\n".join(lines))
    data: Dataset = load(tmp_path)
    assert len(data.train) == 1_000_000
    lines[777_777] = "77777\t7x\ttrain"
    (tmp_path / "interactions.tsv").write_text("user\titem\tsplit\n" + "\n".join(lines))
    assert message(tmp_path) == "interactions.tsv, line 777779: expected an integer in column 'item', got '7x'."


@pytest.mark.skipif(not (SHARED / "tiktok").is_dir(), reason="the TikTok data set is not beside the repository")
def test_tiktok():
    data = load("tiktok", data_dir=SHARED)
    assert (data.num_users, data.num_items, data.num_relations) == (9308, 6710, 0)
    assert [len(part) for part in data.splits.values()] == [59541, 3051, 6130]
    assert {name: modality.values.shape for name, modality in data.features.items()} == {
        "acoustic": (6710, 128),
        "visual": (6710, 128),
    }
    assert len(np.unique(data.train[:, 0])) == 9298
    assert len(np.unique(data.train[:, 1])) == 6245
