"""Synthetic data: the promised shapes, the planted clusters in every source, and the words of every error."""

import dataclasses

import numpy as np
import pytest

from slif_jax.data import DataError, Dataset, filled, load
from slif_jax.data.synthetic import from_spec, synthetic


def item_clusters(data: Dataset) -> np.ndarray:
    assert data.item_titles is not None
    return np.array([int(title.split(",")[0].removeprefix("cluster ")) for title in data.item_titles.tolist()])


def all_pairs(data: Dataset) -> np.ndarray:
    return np.concatenate(list(data.splits.values()))


@pytest.fixture(scope="module")
def medium() -> Dataset:
    return synthetic(num_users=3000, num_items=1000, num_clusters=10, mean_degree=15, seed=1)


def test_defaults():
    data = load("synthetic")
    assert (data.num_users, data.num_items, data.num_entities, data.num_relations) == (300, 200, 300, 4)
    assert {name: modality.values.shape for name, modality in data.features.items()} == {
        "text": (200, 24),
        "visual": (200, 32),
    }
    assert abs(len(all_pairs(data)) / 300 - 12) < 0.5


def test_every_user_has_all_three_splits(medium):
    counts = [np.bincount(part[:, 0], minlength=medium.num_users) for part in medium.splits.values()]
    assert min(count.min() for count in counts) >= 1
    degrees = sum(counts)
    np.testing.assert_array_equal(counts[1], np.maximum(1, np.rint(0.1 * degrees)))
    np.testing.assert_array_equal(counts[1], counts[2])


def test_clusters_show_in_interactions(medium):
    clusters = item_clusters(medium)
    pairs = all_pairs(medium)
    table = np.zeros((medium.num_users, 10))
    np.add.at(table, (pairs[:, 0], clusters[pairs[:, 1]]), 1)
    share = (table.max(axis=1) / table.sum(axis=1)).mean()
    assert share > 0.6  # 0.8 without repeats; about 0.25 would be chance for degrees this small
    by_train = np.zeros_like(table)
    np.add.at(by_train, (medium.train[:, 0], clusters[medium.train[:, 1]]), 1)
    guess = by_train.argmax(axis=1)[medium.test[:, 0]]
    assert (guess == clusters[medium.test[:, 1]]).mean() > 0.6  # chance is 0.1


def test_clusters_show_in_features(medium):
    clusters = item_clusters(medium)
    for modality in medium.features.values():
        values, labels = filled(modality)[modality.present], clusters[modality.present]
        centres = np.stack([values[labels == cluster].mean(axis=0) for cluster in range(10)])
        nearest = ((values[:, None] - centres[None]) ** 2).sum(axis=-1).argmin(axis=1)
        assert (nearest == labels).mean() > 0.9
        assert abs(modality.present.mean() - 0.9) < 0.03
        assert not modality.values[~modality.present].any()


def test_clusters_show_in_the_graph(medium):
    clusters = item_clusters(medium)
    heads, relations, tails = medium.triples.T
    assert heads.max() < medium.num_items <= tails.min()
    assert set(relations.tolist()) == set(range(4))
    # Two items that share an entity are mostly of one cluster; chance is 0.1.
    order = np.argsort(tails, kind="stable")
    follow = tails[order][1:] == tails[order][:-1]
    same = clusters[heads[order]][1:] == clusters[heads[order]][:-1]
    assert same[follow].mean() > 0.5


def test_without_noise_nothing_leaves_its_cluster():
    data = synthetic(num_users=50, num_items=400, num_clusters=4, mean_degree=5, noise=0, missing=0)
    clusters = item_clusters(data)
    for modality in data.features.values():
        assert len(np.unique(modality.values, axis=0)) == 4
    for entity in range(data.num_items, data.num_entities):
        assert len(set(clusters[data.triples[data.triples[:, 2] == entity, 0]])) <= 1


def test_power_laws(medium):
    degrees = np.sort(np.bincount(all_pairs(medium)[:, 0]))[::-1]
    assert abs(degrees.mean() - 15) < 0.2
    assert degrees.min() == 3
    assert degrees.max() == medium.num_items // 2
    popularity = np.sort(np.bincount(all_pairs(medium)[:, 1], minlength=1000))[::-1]
    assert popularity[:100].sum() > 0.25 * popularity.sum()  # the top tenth; 0.1 if items were equal
    # On double-log axes the tail of the degrees is nearly straight.
    tail = degrees[10 : len(degrees) // 5]
    line = np.corrcoef(np.log(np.arange(11, 11 + len(tail))), np.log(tail))[0, 1]
    assert line < -0.99


def test_the_seed_decides_everything():
    assert synthetic(seed=3).fingerprint == synthetic(seed=3).fingerprint
    assert synthetic(seed=3).split_fingerprint != synthetic(seed=4).split_fingerprint
    other = synthetic(seed=3, modalities={"audio": 5, "visual": 32}, num_relations=2)
    assert other.split_fingerprint == synthetic(seed=3).split_fingerprint
    same = other.features["visual"].values == synthetic(seed=3).features["visual"].values
    assert same.all()


def test_split_of_the_default_set():
    """A golden value: it changes only when the generator changes, and then every number made with it is another."""
    assert synthetic().split_fingerprint == "e8ca9663eb8bd3d52390d8935037cc90918b4fe46d3a6ce0b9b8751d00279fb4"


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_items": 6, "num_users": 1, "num_clusters": 6, "mean_degree": 3},
        {"num_items": 7, "num_users": 5, "num_clusters": 1, "mean_degree": 3},
        {"num_items": 40, "num_users": 20, "mean_degree": 20},
        {"noise": 1.0},
        {"num_relations": 0},
        {"num_entities": 200},
        {"num_entities": 201},
        {"modalities": {}},
        {"missing": 0.999, "num_items": 50},
    ],
)
def test_extremes(arguments):
    data = synthetic(**arguments)
    assert np.bincount(all_pairs(data)[:, 0]).min() >= 3
    assert all(modality.present.any() for modality in data.features.values())
    if data.num_relations == 0:
        assert (data.num_entities, len(data.triples), data.relation_names) == (data.num_items, 0, None)
    else:
        assert len(data.triples)
        assert (data.triples[:, 0] != data.triples[:, 2]).all()


def test_a_million_interactions():
    data = synthetic(num_users=50_000, num_items=20_000, num_clusters=50, mean_degree=20, modalities={})
    assert abs(len(all_pairs(data)) - 1_000_000) < 10_000


def test_spec():
    data = load("synthetic:users=100, items=50,num_clusters=2,degree=6,noise=0.5,modalities=audio:7+text:3,seed=9")
    assert (data.num_users, data.num_items, data.features["audio"].values.shape) == (100, 50, (50, 7))
    widths = {"audio": 7, "text": 3}
    same = synthetic(100, 50, num_clusters=2, mean_degree=6, noise=0.5, modalities=widths, seed=9)
    assert data.fingerprint == same.fingerprint
    assert load("synthetic:modalities=none,relations=0").features == {}
    assert from_spec("synthetic:").fingerprint == synthetic().fingerprint


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            "user=3",
            "synthetic has no argument 'user'. Did you mean 'users'? It has: users, items, clusters, degree, entities, "
            "relations, modalities, missing, noise, seed, links_per_item.",
        ),
        ("users", "synthetic: expected 'users=value', got 'users'."),
        ("users=3,num_users=4", "synthetic: 'num_users' is given twice."),
        ("users=many", "synthetic: expected an integer for 'users', got 'many'."),
        ("noise=loud", "synthetic: expected a number for 'noise', got 'loud'."),
        (
            "modalities=visual",
            "synthetic: expected widths such as visual:32+text:24, or none, for 'modalities', got 'visual'.",
        ),
        ("modalities=a:0", "synthetic: the width of modality 'a' must be at least 1, got 0."),
        ("users=0", "synthetic: num_users must be at least 1, got 0."),
        ("items=5", "synthetic: num_items must be at least 6, got 5."),
        ("clusters=201", "synthetic: num_clusters must be from 1 to num_items=200, got 201."),
        ("degree=2", "synthetic: mean_degree must be from 3 to 100, got 2.0."),
        ("degree=nan", "synthetic: mean_degree must be from 3 to 100, got nan."),
        ("entities=199", "synthetic: num_entities must be at least num_items=200, got 199."),
        ("relations=-1", "synthetic: num_relations must be at least 0, got -1."),
        ("missing=1", "synthetic: missing must be at least 0 and below 1, got 1.0."),
        ("noise=1.5", "synthetic: noise must be from 0 to 1, got 1.5."),
        ("seed=-1", "synthetic: seed must be at least 0, got -1."),
    ],
)
def test_wrong_specs(spec, expected):
    with pytest.raises(DataError) as caught:
        load(f"synthetic:{spec}")
    assert str(caught.value) == expected


def test_result_is_frozen():
    data = synthetic()
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.num_users = 1  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="read-only"):
        data.train[0] = 0
