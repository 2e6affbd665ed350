"""One data set in every format gives one set of graphs, and every trap is handled as the formats' page says."""

import json
import shutil
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from data_battery import FORMATS, WITH_KNOWLEDGE, quietly, shop

from slif_jax.config import Config
from slif_jax.data import DataError, DataWarning, findings, load
from slif_jax.graphs import build_graphs


@pytest.fixture(scope="module")
def datasets():
    return {name: quietly(shop(name)) for name in FORMATS}


@pytest.fixture
def copy(tmp_path):
    """Copies a fixture, to be spoilt."""
    return lambda name: Path(shutil.copytree(shop(name), tmp_path / "shop"))


def failure(folder: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        quietly(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def kinds(folder: Path, **options) -> Counter:
    with findings.collect() as notes:
        load(folder, **options)
    return Counter({kind: sum(note.count for note in notes if note.kind == kind) for kind in {n.kind for n in notes}})


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_data_give_the_same_graphs(datasets, name):
    config = Config(feature_neighbors=3, knowledge_graph=name in WITH_KNOWLEDGE)
    found, expected = (build_graphs(data, config) for data in (datasets[name], datasets["native"]))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    assert datasets[name].split_fingerprint == datasets["native"].split_fingerprint
    assert len(datasets[name].triples) == (12 if name in WITH_KNOWLEDGE else 0)


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"matrices"}))
def test_original_ids_and_names_are_kept(datasets, name):
    data = datasets[name]
    assert data.user_ids.tolist() == [f"u{user:02d}" for user in range(12)]
    assert data.item_ids.tolist() == [f"B{item:02d}" for item in range(9)]
    if name in WITH_KNOWLEDGE:
        assert data.entity_names[9:].tolist() == ["m.brand", "m.cotton", "m.red", "m.wool"]
        assert data.relation_names.tolist() == ["colour", "material", "near"]
    if name in ("native", "recbole"):
        assert data.item_titles[[5, 7]].tolist() == ["Café apron", 'Box, 9" wide']


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("native", {"duplicates": 1, "repeated_triples": 1, "byte_order_mark": 1, "float64_features": 1}),
        ("mmrec", {"duplicates": 1, "several_splits": 1, "unknown_labels": 2, "empty_users": 1, "byte_order_mark": 1}),
        ("recbole", {"duplicates": 2, "several_splits": 1, "overwritten_links": 1, "unknown_items": 1}),
        ("kgat", {"duplicates": 18, "lines_without_items": 4, "empty_users": 1, "repeated_triples": 2}),
        ("matrices", {"duplicates": 1, "empty_users": 1, "repeated_triples": 2}),
        ("item_files", {"duplicates": 2, "unknown_items": 2, "windows_line_ends": 29}),
    ],
)
def test_what_is_repaired_is_counted(name, expected):
    found = kinds(shop(name))
    assert {kind: found[kind] for kind in expected} == expected
    assert found["absent_features"] == 1
    if name in WITH_KNOWLEDGE:
        assert (found["unlinked_items"], found["self_loops"]) == (1, 1)


def test_findings_are_warnings_unless_they_are_collected():
    with pytest.warns(DataWarning) as caught:
        load(shop("mmrec"))
    assert sorted(str(warning.message) for warning in caught) == [
        "shop.inter: 2 rows have another x_label than 0, 1 or 2 and are left out.",
        "shop: 1 pairs were in several splits; each stays in the first of train, valid, test.",
        "shop: 1 repeated rows were dropped from train.",
    ]
    with pytest.raises(ValueError, match="Unknown kind of finding 'odd'"):
        findings.note("odd", "text")


def test_a_pair_in_several_splits_is_an_error_only_in_the_native_layout(copy):
    folder = copy("native")
    with (folder / "interactions.tsv").open("a") as file:
        file.write("0\ttest\t0\t1\t1\n")
    assert "user 0 and item 0 are in train and in test; a pair may be in one split only." in failure(folder)


def test_mmrec_numbers_without_features_are_closed_up(copy):
    folder = copy("mmrec")
    for path in folder.iterdir():
        if path.suffix != ".inter":
            path.unlink()
    edit(folder / "shop.inter", "0\t8\t", "0\t1999999999\t")
    data = quietly(folder)
    assert (data.num_users, data.num_items) == (12, 10)
    assert data.item_ids[-1] == "1999999999"
    assert data.user_ids.tolist() == [str(user) for user in range(13) if user != 5]
    assert kinds(folder)["item_gaps"] == 1999999990


def test_mmrec_features_must_have_a_row_per_item(copy):
    folder = copy("mmrec")
    np.save(folder / "text_feat.npy", np.ones((8, 3), np.float32))
    assert failure(folder) == "text_feat.npy: expected 9 rows, one per item, got 8."
    np.save(folder / "text_feat.npy", np.full((9, 3), np.nan))
    assert failure(folder) == "text_feat.npy, row 0: expected finite numbers, got nan."


def test_mmrec_items_of_the_id_map_stay_without_interactions(copy):
    folder = copy("mmrec")
    for name in ("image_feat.npy", "text_feat.npy"):
        (folder / name).unlink()
    with (folder / "i_id_mapping.csv").open("a") as file:
        file.write("B09\t9\n")
    assert quietly(folder).item_ids[-1] == "B09"
    assert kinds(folder)["silent_items"] == 1


def test_several_inter_files(copy):
    folder = copy("mmrec")
    shutil.copy(folder / "shop.inter", folder / "shop-indexed.inter")
    assert kinds(folder)["several_files"] == 1
    (folder / "shop.inter").rename(folder / "other.inter")
    assert failure(folder).endswith("holds other.inter, shop-indexed.inter: keep one, or name one like the folder.")


def test_recbole_ids_are_texts(tmp_path):
    rows = ["user_id:token\titem_id:token", "1\tx", "01\tx", "10\ty", "2\ty", "1\ty", "2\tx"]
    (tmp_path / "a.inter").write_text("\n".join(rows))
    assert quietly(tmp_path).user_ids.tolist() == ["01", "1", "10", "2"]  # one is no plain number: order of texts
    (tmp_path / "a.inter").write_text("\n".join(row.replace("01\t", "9\t") for row in rows))
    assert quietly(tmp_path).user_ids.tolist() == ["1", "2", "9", "10"]


def test_recbole_users_and_items_do_not_depend_on_the_knowledge_graph(copy):
    folder = copy("recbole")
    before = quietly(folder)
    for suffix in ("kg", "link", "item"):
        (folder / f"shop.{suffix}").unlink()
    after = quietly(folder)
    assert after.split_fingerprint == before.split_fingerprint
    assert after.item_ids.tolist() == before.item_ids.tolist()


def test_recbole_one_line_without_a_line_end(tmp_path):
    (tmp_path / "a.train.inter").write_text("user_id:token\titem_id:token\nu\ti\nu\tj\n")
    (tmp_path / "a.test.inter").write_text("user_id:token\titem_id:token")
    assert len(quietly(tmp_path).test) == 0
    (tmp_path / "a.test.inter").write_text("user_id:token\titem_id:token\nu\titem")
    assert quietly(tmp_path).item_ids.tolist() == ["i", "item", "j"]


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        (
            "shop.train.inter",
            "u11\t",
            "\t",
            "shop.train.inter, line 2: expected an id in column 'user_id:token', got ''.",
        ),
        ("shop.item", "\tB03\t", "\tB01\t", "shop.item, line 3: item 'B01' is there a second time."),
        ("shop.item", "\tprice:float", "", "shop.item, line 2: expected 4 columns, got 5."),
        ("shop.kg", "tail_id:token", "tail:token", "shop.kg: column 'tail_id:token' is missing; found "),
    ],
)
def test_wrong_recbole_files(copy, name, old, new, expected):
    folder = copy("recbole")
    edit(folder / name, old, new)
    assert failure(folder).startswith(expected)


def test_kgat_gaps_and_entities(tmp_path):
    (tmp_path / "train.txt").write_text("0 0 4\n1 0\n")
    (tmp_path / "test.txt").write_text("1 4\n")
    (tmp_path / "kg_final.txt").write_text("4 0 7\n2 0 7\n9 2 0\n")
    data = quietly(tmp_path)
    # Item 2 is in a triple and stays; 1 and 3 are unknown. Entities 7 and 9 close up, and so does relation 2.
    assert data.item_ids.tolist() == ["0", "2", "4"]
    assert (data.num_entities, data.num_relations) == (5, 2)
    np.testing.assert_array_equal(data.triples, [[1, 0, 3], [2, 0, 3], [4, 1, 0]])


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("train.txt", "0 1\n1 x\n", "train.txt, line 2: expected whole numbers from 0 to 2147483646, got 'x'."),
        ("train.txt", "0 1\n\n1 -1\n", "train.txt, line 3: expected whole numbers from 0 to 2147483646, got '-1'."),
        ("train.txt", "0 \n", "shop: no interaction is in train; there is nothing to learn from."),
        ("kg_final.txt", "0 0 9\n0 0\n", "kg_final.txt, line 2: expected three numbers, got 2."),
        ("item_list.txt", "B00 0\n", "item_list.txt, line 1: expected org_id remap_id, got 'B00 0'."),
        ("user_list.txt", "org_id remap_id\na b\n", "user_list.txt, line 2: expected an id and its number, got 'a b'."),
    ],
)
def test_wrong_kgat_files(copy, name, text, expected):
    folder = copy("kgat")
    (folder / name).write_text(text)
    assert failure(folder) == expected


def test_one_file_per_item(copy):
    folder = copy("item_files")
    np.save(folder / "text" / "B03.npy", np.ones(5, np.float32))
    assert failure(folder) == "text/B03.npy: expected 3 numbers, got 5."
    np.save(folder / "text" / "B03.npy", np.array([1, np.inf, 2], np.float32))
    assert failure(folder) == "text, row 3: expected finite numbers, got inf."
    np.save(folder / "text" / "B03.npy", np.ones((2, 3)))
    assert failure(folder) == "text/B03.npy: expected one vector, got shape (2, 3)."
    edit(folder / "test.tsv", "u00\t", "user\titem\nu00\t")
    assert failure(folder).startswith("test.tsv, line 1: this file has no header")


def test_a_format_that_is_named_and_one_that_is_not_clear(copy):
    folder = copy("kgat")
    for path in shop("matrices").glob("*.pkl"):
        shutil.copy(path, folder)
    assert kinds(folder)["several_files"] == 1
    assert quietly(folder, format="matrices").split_fingerprint == quietly(folder).split_fingerprint


def test_native_entities_that_no_table_names(copy):
    folder = copy("native")
    with (folder / "kg.tsv").open("a") as file:
        file.write("0\t1\t40\n")
    assert kinds(folder)["unknown_entities"] == 1
    data = quietly(folder)
    assert data.num_entities == 14
    assert data.entity_names is not None
    assert data.entity_names[13] == ""


def test_findings_are_plain_values():
    with findings.collect() as notes:
        load(shop("kgat"))
    text = json.dumps([[note.kind, note.level, note.message, note.count, note.where] for note in notes])
    assert "lines name a user and no item" in text
