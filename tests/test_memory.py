"""The estimate of memory: the parameters are counted exactly, the graphs nearly."""

import dataclasses

import jax
import numpy as np
import pytest

from slif_jax import memory
from slif_jax.config import Config
from slif_jax.correlation import empty
from slif_jax.data.synthetic import synthetic
from slif_jax.graphs import Graphs, build_graphs
from slif_jax.model import make_model

DATASET = synthetic(num_users=300, num_items=200)
BASE = Config(width=8, correlation_neighbors=4)


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    return build_graphs(DATASET, BASE)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"knowledge_layers": 3, "correlation_into": ("features",), "learn_feature_correlation": True},
        {"missing_features": "learned", "knowledge_graph": False},
        {"modalities": ("none",)},
        {"side_information": False},
    ],
    ids=str,
)
def test_parameters_are_counted(graphs: Graphs, change: dict):
    config = dataclasses.replace(BASE, **change)
    model = make_model(DATASET, config)
    loop = jax.eval_shape(lambda: empty(DATASET.num_items, 4))
    shapes = jax.eval_shape(model.init, jax.random.key(0), graphs, loop)
    assert memory.num_parameters(DATASET, config) == sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_graphs_and_features_take_what_is_estimated(graphs: Graphs):
    parts = memory.estimate(DATASET, BASE)
    taken = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(graphs))
    np.testing.assert_allclose(parts["graphs"] + parts["features"], taken, rtol=0.2)
    assert parts["total"] == sum(value for name, value in parts.items() if name != "total")


def test_what_is_switched_off_takes_nothing():
    off = memory.estimate(DATASET, dataclasses.replace(BASE, side_information=False))
    on = memory.estimate(DATASET, BASE)
    assert off["features"] == 0
    assert off["graphs"] < on["graphs"]
    wide = memory.estimate(DATASET, dataclasses.replace(BASE, width=16))
    assert wide["parameters"] > 1.9 * on["parameters"]
