"""--precision=bf16: vectors travel in bfloat16, parameters and sums do not, and the numbers stay near."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax.config import Config
from slif_jax.data.synthetic import synthetic
from slif_jax.graphs import build_graphs
from slif_jax.model import make_model
from slif_jax.train_state import init_train_state, make_optimizer
from slif_jax.train_step import make_epoch, training_data

pytestmark = pytest.mark.usefixtures("standard_promotion")

CONFIG = Config(dataset="synthetic", width=8, correlation_neighbors=3, feature_neighbors=3, batch_size=64)


def test_bf16_is_used_and_stays_near_float32():
    dataset = synthetic(num_users=40, num_items=30, num_clusters=3, seed=1)
    graphs, data = build_graphs(dataset, CONFIG), training_data(dataset, CONFIG)
    found = {}
    for precision in ("float32", "bf16"):
        config = dataclasses.replace(CONFIG, precision=precision)
        model = make_model(dataset, config)
        state = init_train_state(model, graphs, config)
        users, items = model.encode_views(state.params, graphs, state.correlation)
        assert {leaf.dtype for leaf in jax.tree.leaves((users, items, state.params))} == {jnp.dtype("float32")}
        epoch = make_epoch(model, make_optimizer(config))
        text = jax.jit(epoch).lower(state, graphs, data).as_text()
        assert ("bf16" in text) == (precision == "bf16")
        found[precision] = users, items, float(jax.jit(epoch)(state, graphs, data)[1].means["loss"])
    scale = float(jnp.abs(found["float32"][1].collaborative).max())
    for one, other in zip(*(jax.tree.leaves(found[name][:2]) for name in found), strict=True):
        np.testing.assert_allclose(one, other, atol=0.05 * scale)
    assert found["float32"][1].collaborative.tolist() != found["bf16"][1].collaborative.tolist()
    assert found["bf16"][2] == pytest.approx(found["float32"][2], rel=1e-2)
