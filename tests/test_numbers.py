"""A loss that is no number: where it began, what gave it, and what keeps it from happening."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import losses, train_step
from slif_jax.config import Config
from slif_jax.data.synthetic import synthetic
from slif_jax.graphs import build_graphs
from slif_jax.model import make_model
from slif_jax.train import NonFiniteLossError, train_and_evaluate
from slif_jax.train_state import init_train_state, make_optimizer
from slif_jax.workdir import Workdir

pytestmark = pytest.mark.usefixtures("standard_promotion")

SMALL = Config(
    dataset="synthetic:users=60,items=40,clusters=3,seed=2",
    width=8,
    modalities=("none",),
    knowledge_graph=False,
    correlation_start=1,
    batch_size=128,
    softmax_negatives=32,
    epochs=3,
    learning_rate=1e-2,
    eval_block=64,
)


def one_step(config: Config):
    dataset = synthetic(num_users=60, num_items=40, num_clusters=3, seed=2)
    graphs, model = build_graphs(dataset, config), make_model(dataset, config)
    state, data = init_train_state(model, graphs, config), train_step.training_data(dataset, config)
    step = jax.jit(train_step.make_train_step(model, make_optimizer(config)))
    return state, *step(state, graphs, data, train_step.examples_of_step(state, data, config, jnp.int32(0)))


def test_norms_are_those_of_the_gradient_and_the_parameters():
    state, after, parts = one_step(SMALL)
    # Adam's first moment after one step is a tenth of the gradient.
    gradient = [10 * np.asarray(x) for x in jax.tree.leaves(after.opt_state[0].mu)]
    assert parts["gradient_norm"] == pytest.approx(np.sqrt(sum((x**2).sum() for x in gradient)), rel=1e-4)
    parameters = [np.asarray(x) for x in jax.tree.leaves(state.params)]
    assert parts["parameter_norm"] == pytest.approx(np.sqrt(sum((x**2).sum() for x in parameters)), rel=1e-5)


def test_clipping_scales_the_whole_gradient_and_leaves_small_ones():
    _, free, parts = one_step(SMALL)
    norm = float(parts["gradient_norm"])
    for limit, factor in ((norm / 4, 0.25), (norm * 4, 1.0)):
        _, clipped, clipped_parts = one_step(dataclasses.replace(SMALL, clip_norm=limit))
        assert clipped_parts["gradient_norm"] == pytest.approx(norm, rel=1e-5)
        for ours, theirs in zip(
            jax.tree.leaves(clipped.opt_state[0].mu), jax.tree.leaves(free.opt_state[0].mu), strict=True
        ):
            np.testing.assert_allclose(ours, factor * np.asarray(theirs), rtol=1e-4, atol=1e-9)


def test_the_step_the_part_and_the_norms_are_named(tmp_path: Path):
    # The first update makes every parameter about 1e30: their squares are beyond float32.
    with pytest.raises(NonFiniteLossError) as failed:
        train_and_evaluate(dataclasses.replace(SMALL, learning_rate=1e30), tmp_path / "run", progress="off")
    message = str(failed.value)
    assert "Epoch 1, step 2: not finite: " in message
    assert "l2 = inf" in message
    assert "parameter_norm = inf" in message
    assert "--clip_norm=1" in message
    assert not (tmp_path / "run" / "result.json").exists()


def test_the_last_good_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = dataclasses.replace(SMALL, epochs=6)

    with monkeypatch.context() as patched:
        real = train_step.average_parameters

        def spoil(state, config):
            state = real(state, config)
            late = state.epoch >= 3
            return state.replace(params=jax.tree.map(lambda x: jnp.where(late, jnp.nan, x), state.params))

        patched.setattr(train_step, "average_parameters", spoil)
        with pytest.raises(
            NonFiniteLossError, match=r"Epoch 5, step 1: not finite: loss = nan, .*gradient_norm = nan.*intact"
        ):
            train_and_evaluate(config, tmp_path / "run", progress="off", checkpoint_every=2)
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    rows = Workdir(tmp_path / "run").read_metrics()
    assert len(rows) == 4
    best = max(rows, key=lambda row: row["valid"][config.select_on])["epoch"]
    assert {str(best), "4"} <= kept


def test_debug_nans_names_the_operation_and_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def wrong(x):
        return jnp.log(-1.0 - jnp.abs(x)).sum()

    real = losses.l2_loss
    monkeypatch.setattr(losses, "l2_loss", lambda table: real(table) + wrong(table))
    with pytest.raises(NonFiniteLossError, match=r"step 1: .*invalid value \(nan\) encountered in log"):
        train_and_evaluate(SMALL, tmp_path / "run", progress="off", debug_nans=True)
    with pytest.raises(ValueError, match="one device"):
        train_and_evaluate(
            SMALL, tmp_path / "b", debug_nans=True, mesh=jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
        )
