"""What is odd about a data set, on data made by hand to be odd."""

import dataclasses

import numpy as np
import pytest

from slif_jax.data import Dataset, Modality
from slif_jax.data.audit import describe
from slif_jax.data.synthetic import synthetic


def pairs(*rows: tuple[int, int]) -> np.ndarray:
    return np.array(rows, np.int32).reshape(-1, 2)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """User 2 is cold; items 3 and 4 are not in train; entity 6 has one triple, 7 none; relation 1 has one tail."""
    values = np.array([[1, 5], [0, 5], [1, 5], [0, 0], [2, 5]], np.float32)
    return Dataset(
        name="odd",
        num_users=3,
        num_items=5,
        num_entities=8,
        num_relations=3,
        train=pairs((0, 0), (0, 1), (1, 2)),
        valid=pairs(),
        test=pairs((0, 3), (1, 0), (2, 1)),
        triples=np.array([(0, 0, 5), (1, 0, 6), (2, 1, 5), (3, 1, 5), (5, 0, 5)], np.int32),
        features={
            "all": Modality(values, np.ones(5, np.bool_)),
            "some": Modality(values, np.array([True, False, False, False, False])),
        },
        user_ids=np.array(list("abc")),
        item_ids=np.array(list("vwxyz")),
    )


def found(dataset: Dataset) -> dict[tuple[str, str], int]:
    return {(entry.kind, entry.level): entry.count for entry in describe(dataset)[1]}


def test_everything_odd_is_named(dataset: Dataset):
    assert found(dataset) == {
        ("no_valid", "warning"): 1,
        ("cold_users", "warning"): 1,
        ("cold_items", "warning"): 1,
        ("items_not_in_train", "remark"): 2,
        ("zero_features", "warning"): 1,
        ("repeated_features", "remark"): 2,
        ("absent_features", "warning"): 4,
        ("constant_features", "warning"): 1,
        ("unlinked_items", "remark"): 1,
        ("tails_repeat_relations", "warning"): 2,
        ("lonely_entities", "remark"): 1,
        ("unused_entities", "remark"): 1,
        ("self_loops", "remark"): 1,
        ("unused_relations", "remark"): 1,
    }
    levels = [entry.level for entry in describe(dataset)[1]]
    assert levels == sorted(levels, reverse=True)  # warnings first


def test_sizes_and_quantiles(dataset: Dataset):
    sections, _ = describe(dataset)
    assert sections["sizes"]["interactions"] == 6
    assert sections["degrees"]["training interactions per user"] == {
        "min": 0,
        "25 %": 0,
        "median": 1,
        "75 %": 2,
        "95 %": 2,
        "max": 2,
    }
    assert sections["splits"]["test"] == {
        "users": 3,
        "users without training interactions": 1,
        "interactions with items not in train": 1,
        "items not in train": 1,
    }
    assert sections["features"]["all"]["length, min / median / max"] == [0.0, 5.099, 5.3852]
    assert sections["knowledge_graph"]["items in triples"] == 4


def test_a_graph_whose_tails_repeat_its_relations_says_nothing(dataset: Dataset):
    rows = np.array([(0, 0, 5), (1, 0, 5), (2, 1, 6), (3, 2, 7)], np.int32)
    silent = dataclasses.replace(dataset, triples=rows)
    (entry,) = [entry for entry in describe(silent)[1] if entry.kind == "tails_repeat_relations"]
    assert (entry.level, entry.count) == ("warning", 4)
    assert "the tail follows from the relation" in entry.message


def test_equal_features_everywhere_say_nothing(dataset: Dataset):
    same = dataclasses.replace(dataset, features={"same": Modality(np.ones((5, 3), np.float16), np.ones(5, np.bool_))})
    assert found(same)[("constant_features", "warning")] == 5


def test_healthy_data_give_no_warning():
    assert [entry for entry in describe(synthetic(missing=0.0))[1] if entry.level == "warning"] == []
