"""Ranked lists as TSV, JSONL and NPZ, and original ids looked up."""

import io
import json

import numpy as np
import pytest

from slif_jax import lists
from slif_jax.lists import Columns, Names

NOTHING = -np.inf
COLUMNS = Columns(
    row="user",
    row_ids=np.array(["ann", "bob", "c  3", "007", 'e"ve']),
    item="item",
    item_ids=np.array([f"B{item}" for item in range(6)]),
    score="score",
    titles=np.array(["Tea", "", "Red\tcup", " Two\n lines ", "Café", '"x", \\']),
)
UNTITLED = COLUMNS._replace(titles=None)
BLOCKS = (
    ([0, 1], [[3, 4], [-1, -1]], [[1.5, -2.0], [NOTHING, NOTHING]]),
    ([3, 4], [[2, -1], [5, 0]], [[1e-9, NOTHING], [0.1, 0.0]]),
)


def blocks(*parts):
    """A generator, as `top_n` gives one."""
    for rows, items, scores in parts:
        yield np.array(rows), np.array(items, np.int32), np.array(scores, np.float32)


def text(write, columns, *parts):
    file = io.BytesIO()
    return write(blocks(*parts), columns, file), file.getvalue().decode()


def test_a_line_per_item():
    assert text(lists.write_tsv, COLUMNS, *BLOCKS) == (
        5,
        "user\trank\titem\tscore\ttitle\n"
        "ann\t1\tB3\t1.5\tTwo lines\n"
        "ann\t2\tB4\t-2.0\tCafé\n"
        "007\t1\tB2\t1e-9\tRed cup\n"
        'e"ve\t1\tB5\t0.1\t"x", \\\n'
        'e"ve\t2\tB0\t0.0\tTea\n',
    )


def test_lines_without_titles_or_lists():
    header = "user\trank\titem\tscore\n"
    assert text(lists.write_tsv, UNTITLED) == (0, header)
    assert text(lists.write_tsv, UNTITLED, ([2], [[0]], [[0.5]])) == (1, header + "c  3\t1\tB0\t0.5\n")


def test_ids_that_would_break_a_line_or_a_column():
    columns = UNTITLED._replace(row_ids=np.array(["a\tb\nc"]))
    assert text(lists.write_tsv, columns, ([0], [[1]], [[1.0]]))[1].splitlines()[1:] == ["a b c\t1\tB1\t1.0"]


def test_an_object_per_user():
    count, written = text(lists.write_jsonl, COLUMNS, *BLOCKS)
    assert count == 5
    rows = [json.loads(line) for line in written.splitlines()]
    assert [row["user"] for row in rows] == ["ann", "bob", "007", 'e"ve']  # in the order of the blocks, none left out
    assert rows[0]["items"][0] == {"item": "B3", "score": 1.5, "title": "Two lines"}
    assert rows[1] == {"user": "bob", "items": []}
    assert [item["title"] for item in rows[3]["items"]] == ['"x", \\', "Tea"]


def test_objects_without_titles_or_lists():
    assert text(lists.write_jsonl, UNTITLED) == (0, "")
    _, written = text(lists.write_jsonl, UNTITLED, ([1], [[-1]], [[NOTHING]]), ([0], [[1]], [[2.0]]))
    assert [json.loads(line) for line in written.splitlines()] == [
        {"user": "bob", "items": []},
        {"user": "ann", "items": [{"item": "B1", "score": 2.0}]},
    ]


@pytest.mark.parametrize("columns", [COLUMNS, UNTITLED], ids=["titles", "no titles"])
def test_arrays(columns, tmp_path):
    path = tmp_path / "lists.npz"
    assert lists.write(blocks(*BLOCKS), columns, path, format_name="npz") == 5
    with np.load(path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["users"], ["ann", "bob", "007", 'e"ve'])
        np.testing.assert_array_equal(arrays["items"], [[3, 4], [-1, -1], [2, -1], [5, 0]])
        np.testing.assert_array_equal(
            arrays["scores"], np.array([[1.5, -2], [NOTHING, NOTHING], [1e-9, NOTHING], [0.1, 0]], np.float32)
        )
        np.testing.assert_array_equal(arrays["item_ids"], columns.item_ids)
        assert ("titles" in arrays) == (columns.titles is not None)


def test_arrays_of_no_lists(tmp_path):
    path = tmp_path / "none.npz"
    assert lists.write(blocks(), UNTITLED, path, format_name="npz") == 0
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["users"].shape == (0,)
        assert arrays["items"].shape == (0, 0)


def test_a_failure_leaves_the_older_file(tmp_path):
    path = tmp_path / "lists.tsv"
    path.write_text("older")

    def failing():
        yield from blocks(BLOCKS[0])
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        lists.write(failing(), COLUMNS, path, format_name="tsv")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("lists.tsv", "older")]


def test_the_format_is_named_or_the_suffix(tmp_path):
    assert [lists.file_format(tmp_path / name, None) for name in ("a.tsv", "b.c.JSONL", "d.npz")] == [
        "tsv",
        "jsonl",
        "npz",
    ]
    assert lists.file_format(tmp_path / "a.txt", "tsv") == "tsv"
    for name in ("a.csv", "tsv"):
        with pytest.raises(ValueError, match=rf"^'{name}' must end in \.tsv, \.jsonl or \.npz, or name the format"):
            lists.file_format(tmp_path / name, None)


# Original ids

KNOWN = np.array(["ann", "bob", "c 3", "007", "eve"])


def find(*lines):
    return lists.positions(KNOWN, Names("--users=list.txt", lines), what="user", place="shop")


def test_positions_of_ids():
    np.testing.assert_array_equal(find("eve\n", "", "  ", "ann", "eve", " c 3 "), [0, 2, 4])
    np.testing.assert_array_equal(lists.positions(KNOWN, None, what="user", place="shop"), np.arange(5))


def test_an_unknown_id_gets_its_line_and_the_nearest():
    with pytest.raises(
        ValueError, match=r"^--users=list\.txt, line 3: shop has no user 'Ann'\. The nearest ids are 'ann'\.$"
    ):
        find("ann", "", "Ann")
    with pytest.raises(ValueError, match=r"^--users=list\.txt: shop has no user '7'\. Its ids look like 'ann', 'bob'"):
        find("7")
