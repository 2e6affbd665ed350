"""The contrast between own embeddings and views."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import sampling
from slif_jax.config import Config
from slif_jax.consistency import consistency_loss
from slif_jax.data import Dataset, Modality
from slif_jax.data.synthetic import synthetic
from slif_jax.graphs import build_graphs
from slif_jax.model import Views, make_model
from slif_jax.train_state import init_train_state
from slif_jax.train_step import loss_fn, training_data

CONFIG = Config(
    dataset="synthetic",
    width=4,
    batch_size=16,
    consistency_batch=12,
    consistency_weight=0.3,
    collaborative_consistency_weight=0.7,
    correlation_neighbors=3,
    feature_neighbors=3,
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    whole = synthetic(num_users=14, num_items=11, num_clusters=2, mean_degree=4.0, num_entities=16, seed=3)
    name = next(iter(whole.features))
    lacking = Modality(whole.features[name].values, np.arange(11) % 3 > 0)
    triples = whole.triples[~np.isin(whole.triples[:, [0, 2]], [2, 5]).any(axis=1)]  # two items have none
    return dataclasses.replace(whole, features=whole.features | {name: lacking}, triples=triples)


def contrast(own: np.ndarray, view: np.ndarray, ids: np.ndarray, temperature: float) -> float:
    """Mean over the distinct `ids`: how well the view of each is told from those of the others."""
    rows = np.unique(ids[view[ids].any(axis=1)])
    unit = [x[rows] / np.linalg.norm(x[rows], axis=1, keepdims=True) for x in (own, view)]
    logits = unit[0] @ unit[1].T / temperature
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)))


@pytest.mark.usefixtures("standard_promotion")
def test_it_is_the_weighed_sum_over_views_of_users_and_items(dataset: Dataset):
    graphs, model = build_graphs(dataset, CONFIG), make_model(dataset, CONFIG)
    state, data = init_train_state(model, graphs, CONFIG), training_data(dataset, CONFIG)
    batch = sampling.sample_batch(
        jax.random.key(1), data.interactions, jnp.arange(16).at[3].set(-1), num_negatives=4, shared=True
    )
    users, items = model.encode_views(state.params, graphs, state.correlation)
    found = consistency_loss(state.params, users, items, graphs, batch, model)

    real = np.asarray(batch.weight[:12]) > 0
    user_ids, item_ids = np.asarray(batch.users[:12])[real], np.asarray(batch.positives[:12])[real]
    assert len(np.unique(item_ids)) < len(item_ids)
    own_users, own_items = (np.asarray(state.params[f"{kind}_embedding"]) for kind in ("user", "item"))

    def of_view(name: str) -> float:
        of_users, of_items = (
            np.asarray(x.collaborative if name == "collaborative" else x.sides[name]) for x in (users, items)
        )
        has = dataset.features[name].present if name in dataset.features else np.ones(11, np.bool_)
        having = item_ids[has[item_ids]]
        return (contrast(own_users, of_users, user_ids, 0.2) + contrast(own_items, of_items, having, 0.2)) / 2

    names = model.side_names
    assert len(names) > 2
    assert not np.asarray(items.sides["knowledge"])[[2, 5]].any()
    assert np.isin(item_ids, [2, 5]).any()
    expected = 0.3 * np.mean([of_view(name) for name in names]) + 0.7 * of_view("collaborative")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    parts = loss_fn(state.params, model, graphs, state.correlation, batch, None)[1]
    np.testing.assert_allclose(parts["consistency"], expected, rtol=1e-5)


def test_views_that_agree_and_differ_from_each_other_cost_least(dataset: Dataset):
    graphs, model = build_graphs(dataset, CONFIG), make_model(dataset, CONFIG)
    state, data = init_train_state(model, graphs, CONFIG), training_data(dataset, CONFIG)
    batch = sampling.sample_batch(jax.random.key(1), data.interactions, jnp.arange(16), num_negatives=4, shared=True)
    own = state.params["user_embedding"], state.params["item_embedding"]

    def all_alike(vectors: jax.Array) -> Views:
        sides: dict[str, jax.Array] = dict.fromkeys(model.side_names, vectors)
        return Views(vectors, sides)

    def cost(change: float) -> float:
        noise = [change * jax.random.normal(jax.random.key(n), x.shape) for n, x in enumerate(own)]
        users, items = (all_alike(x + more) for x, more in zip(own, noise, strict=True))
        return float(consistency_loss(state.params, users, items, graphs, batch, model))

    assert cost(0.0) < cost(0.5) < cost(3.0)


def test_what_is_contrasted():
    sides = ("acoustic", "visual")
    assert CONFIG.contrasted_views(sides) == {"acoustic": 0.15, "visual": 0.15, "collaborative": 0.7}
    assert Config().contrasted_views(()) == {}
    assert Config(collaborative_consistency_weight=0.1).contrasted_views(()) == {"collaborative": 0.1}
    assert set(Config().contrasted_views(sides)) == set(sides)
    for off in ({"consistency": False}, {"side_information": False}):
        assert dataclasses.replace(CONFIG, **off).contrasted_views(sides) == {}
    only = dataclasses.replace(CONFIG, consistency_weight=0.0)
    assert only.contrasted_views(sides) == {"collaborative": 0.7}
