"""The encoder: with everything off it is LightGCN, and every switch matters."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import correlation
from slif_jax.config import MISSING_POLICIES, Config
from slif_jax.data import Dataset, Modality
from slif_jax.data.synthetic import synthetic
from slif_jax.graphs import build_graphs, edge_weights
from slif_jax.model import Encoded, make_model

SMALL = Config(dataset="synthetic", width=8, correlation_neighbors=4, feature_neighbors=4)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return synthetic(num_users=40, num_items=30, num_clusters=3, mean_degree=6.0, seed=1)


@functools.cache
def encode(dataset: Dataset, config: Config) -> tuple[Encoded, dict]:
    graphs, model = build_graphs(dataset, config), make_model(dataset, config)
    graph = correlation.rebuild(
        jax.random.normal(jax.random.key(7), (dataset.num_items, config.width)),
        num_neighbors=config.correlation_neighbors,
    )
    params = model.init_params(jax.random.key(0), graphs, graph)
    return jax.jit(model.encode)(params, graphs, graph), params


def dense_light_gcn(dataset: Dataset, users: np.ndarray, items: np.ndarray, num_layers: int) -> np.ndarray:
    """He et al. 2020, eq. (8), with the full adjacency matrix."""
    count = dataset.num_users + dataset.num_items
    adjacency = np.zeros((count, count))
    for user, item in dataset.train:
        adjacency[user, dataset.num_users + item] = adjacency[dataset.num_users + item, user] = 1.0
    degree = adjacency.sum(axis=1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0)
    normalised = scale[:, None] * adjacency * scale[None, :]
    layers = [np.concatenate([users, items]).astype(np.float64)]
    for _ in range(num_layers):
        layers.append(normalised @ layers[-1])
    return np.mean(layers, axis=0)


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_with_everything_off_it_is_light_gcn(dataset: Dataset, num_layers: int):
    config = dataclasses.replace(SMALL, side_information=False, interaction_layers=num_layers, loss="bpr")
    encoded, params = encode(dataset, config)
    assert set(params) == {"user_embedding", "item_embedding"}
    users, items = np.asarray(params["user_embedding"]), np.asarray(params["item_embedding"])
    expected = dense_light_gcn(dataset, users, items, num_layers)
    np.testing.assert_allclose(encoded.final.users, expected[: dataset.num_users], atol=1e-6)
    np.testing.assert_allclose(encoded.final.items, expected[dataset.num_users :], atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"self_loop": False},
        {"correlation_into": ("interactions",)},
        {"correlation_into": ("knowledge",)},
        {"correlation_into": ("features",)},
        {"knowledge_graph": False},
        {"modalities": ("visual",)},
        {"modalities": ("text",)},
        {"modalities": ("none",)},
        {"side_information": False},
        {"interaction_correlation": 0.1},
        {"feature_correlation": 0.9},
        {"knowledge_correlation": 5.0},
    ],
    ids=str,
)
def test_every_switch_changes_the_vectors(dataset: Dataset, change: dict):
    base, _ = encode(dataset, SMALL)
    changed, _ = encode(dataset, dataclasses.replace(SMALL, **change))
    assert np.abs(np.asarray(base.final.items) - np.asarray(changed.final.items)).max() > 1e-5


def test_the_correlation_enters_only_the_graphs_named(dataset: Dataset):
    off, _ = encode(dataset, dataclasses.replace(SMALL, self_loop=False))
    for graph, moved in (("interactions", "collaborative"), ("features", "visual"), ("knowledge", "knowledge")):
        on, _ = encode(dataset, dataclasses.replace(SMALL, correlation_into=(graph,)))
        for name in ("collaborative", "visual", "text", "knowledge"):
            before = off.items.collaborative if name == "collaborative" else off.items.sides[name]
            after = on.items.collaborative if name == "collaborative" else on.items.sides[name]
            same = bool(jnp.allclose(before, after, atol=1e-7))
            expected = name == moved or (moved == "visual" and name == "text")
            assert same != expected, (graph, name)


def test_learned_share_starts_at_the_fixed_one(dataset: Dataset):
    fixed, _ = encode(dataset, SMALL)
    learned, params = encode(dataset, dataclasses.replace(SMALL, learn_feature_correlation=True))
    assert {"feature_correlation_text", "feature_correlation_visual"} <= set(params)
    np.testing.assert_allclose(fixed.items.sides["text"], learned.items.sides["text"], atol=1e-6)


def test_an_item_without_features_and_neighbours_has_an_empty_view(dataset: Dataset):
    config = dataclasses.replace(SMALL, self_loop=False, modalities=("visual",))
    visual = dataset.features["visual"]
    present = np.array(visual.present)
    present[3] = False
    only = dataclasses.replace(dataset, features={"visual": dataclasses.replace(visual, present=present)})
    encoded, _ = encode(only, config)
    np.testing.assert_array_equal(encoded.items.sides["visual"][3], 0.0)
    assert np.abs(np.asarray(encoded.items.sides["visual"][present])).max() > 0


def test_an_item_without_one_modality_borrows_neighbours_of_another(dataset: Dataset):
    visual, text = dataset.features["visual"], dataset.features["text"]
    present = np.ones(dataset.num_items, bool)
    lacking = present.copy()
    lacking[3] = False
    both = dataclasses.replace(
        dataset,
        features={
            "text": dataclasses.replace(text, present=present),
            "visual": dataclasses.replace(visual, present=lacking),
        },
    )
    graphs = build_graphs(both, SMALL)
    k = SMALL.feature_neighbors
    own = np.asarray(graphs.features["visual"].senders).reshape(-1, k)
    weights = np.asarray(edge_weights(graphs.features["visual"])).reshape(-1, k)
    borrowed = np.asarray(graphs.features["text"].senders).reshape(-1, k)
    np.testing.assert_array_equal(own[3], borrowed[3])
    assert (weights[3] > 0).all()
    assert not (own[weights > 0] == 3).any()


def test_view_weights_are_a_distribution(dataset: Dataset):
    encoded, _ = encode(dataset, SMALL)
    assert encoded.item_weights.shape == (dataset.num_items, 3)
    np.testing.assert_allclose(np.sum(encoded.item_weights, axis=1), 1.0, atol=1e-5)


def test_fusing_rows_equals_rows_of_the_fused(dataset: Dataset):
    graphs, model = build_graphs(dataset, SMALL), make_model(dataset, SMALL)
    graph = correlation.empty(dataset.num_items, SMALL.correlation_neighbors)
    params = model.init_params(jax.random.key(0), graphs, graph)
    _, items = jax.jit(model.encode_views)(params, graphs, graph)
    ids = jnp.array([4, 4, 0, 29])
    encoded = jax.jit(model.encode)(params, graphs, graph)
    fused = jax.jit(model.fuse)(params, items.take(ids))[0]
    np.testing.assert_allclose(fused * encoded.item_scale[ids, None], encoded.final.items[ids], atol=1e-6)


def test_items_trained_by_cosine_have_unit_length_and_cold_ones_their_own(dataset: Dataset):
    train = dataset.train[dataset.train[:, 1] != 7]
    encoded, _ = encode(dataclasses.replace(dataset, train=train), dataclasses.replace(SMALL, cold_item_length=0.5))
    lengths = np.linalg.norm(np.asarray(encoded.final.items), axis=1)
    assert lengths[7] == pytest.approx(0.5, rel=1e-5)
    cold = np.bincount(train[:, 1], minlength=dataset.num_items) == 0
    np.testing.assert_allclose(lengths[~cold], 1.0, rtol=1e-5)


def test_an_unknown_modality_is_named(dataset: Dataset):
    with pytest.raises(ValueError, match="names 'sound', but synthetic has text, visual"):
        build_graphs(dataset, dataclasses.replace(SMALL, modalities=("sound",)))


def test_policies_for_a_missing_modality_differ_and_never_read_what_stands_in_its_rows(dataset: Dataset):
    visual = dataset.features["visual"]
    present = np.array(visual.present)
    present[[3, 8]] = False
    values = np.where(present[:, None], visual.values, np.nan).astype(np.float16)
    features = dataset.features | {"visual": Modality(values, present)}
    lacking = dataclasses.replace(dataset, features=features)
    found = {}
    for policy in MISSING_POLICIES:
        encoded, _ = encode(lacking, dataclasses.replace(SMALL, missing_features=policy))
        found[policy] = np.asarray(encoded.final.items)
        assert np.isfinite(found[policy]).all()
    for a, b in itertools.combinations(MISSING_POLICIES, 2):
        assert np.abs(found[a] - found[b]).max() > 1e-5, (a, b)


def test_the_stand_in_for_missing_features_is_learned(dataset: Dataset):
    config = dataclasses.replace(SMALL, missing_features="learned")
    graphs, model = build_graphs(dataset, config), make_model(dataset, config)
    loop = correlation.rebuild(jax.random.normal(jax.random.key(7), (dataset.num_items, 8)), num_neighbors=4)
    params = model.init_params(jax.random.key(0), graphs, loop)

    def loss(params):
        return jnp.sum(model.encode(params, graphs, loop).final.items ** 2)

    gradient = jax.jit(jax.grad(loss))(params)["missing_visual"]
    assert gradient.shape == (1, 8)
    assert np.abs(np.asarray(gradient)).max() > 0
