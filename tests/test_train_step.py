"""The loss, its gradient, the epoch and the step that closes the loop."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import correlation, sampling, train_step
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.data.synthetic import synthetic
from slif_jax.graphs import Graphs, build_graphs
from slif_jax.model import SlifMr, make_model
from slif_jax.train_state import TrainState, init_train_state, make_optimizer

TINY = Config(
    dataset="synthetic",
    width=4,
    correlation_neighbors=3,
    feature_neighbors=3,
    batch_size=16,
    knowledge_batch=16,
    consistency_batch=8,
    consistency_weight=0.1,
    collaborative_consistency_weight=0.1,
    correlation_start=1,
    parameter_momentum=0.15,
    l2=1e-2,
)
WITHOUT = dataclasses.replace(TINY, consistency=False, parameter_momentum=0.0)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return synthetic(num_users=14, num_items=11, num_clusters=2, mean_degree=4.0, num_entities=16, seed=3)


@functools.cache
def _set_up_once(dataset: Dataset, config: Config) -> tuple:
    graphs, model = build_graphs(dataset, config), make_model(dataset, config)
    return model, graphs, init_train_state(model, graphs, config), train_step.training_data(dataset, config)


def set_up(dataset: Dataset, config: Config) -> tuple[SlifMr, Graphs, TrainState, train_step.TrainingData]:
    model, graphs, state, data = _set_up_once(dataset, config)
    return model, graphs, jax.tree.map(jnp.copy, state), data  # an epoch donates its state


@functools.cache
def epoch_of(dataset: Dataset, config: Config) -> jax.stages.Wrapped:
    """Traced and compiled once for all tests."""
    return train_step.make_run_epoch(set_up(dataset, config)[0], make_optimizer(config))


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_the_gradient_of_the_whole_loss_is_that_of_finite_differences(dataset: Dataset, loss: str):
    config = dataclasses.replace(TINY, loss=loss, dropout=0.2, learn_feature_correlation=True)
    model, graphs, state, data = set_up(dataset, config)
    vectors = jax.random.normal(jax.random.key(1), (dataset.num_items, 4))
    graph = correlation.rebuild(vectors, num_neighbors=3)
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), state.params)
    index = jnp.arange(16).at[3].set(-1)
    batch = sampling.sample_batch(
        jax.random.key(2), data.interactions, index, num_negatives=2, shared=loss == "softmax"
    )
    triples = sampling.sample_triples(
        jax.random.key(3),
        data.triples,
        num_triples=data.num_triples,
        num_entities=dataset.num_entities,
        batch_size=16,
    )

    @jax.jit
    def loss_of(params: dict) -> jax.Array:
        return train_step.loss_fn(params, model, graphs, graph, batch, triples)[0]

    grads = jax.grad(loss_of)(params)
    leaves, structure = jax.tree.flatten(params)
    step = 1e-2
    for place, (leaf, grad) in enumerate(zip(leaves, jax.tree.leaves(grads), strict=True)):
        direction = jax.random.normal(jax.random.key(place), leaf.shape)
        direction = direction / jnp.sqrt(jnp.sum(direction**2))

        def along(t: float, place: int = place, direction: jax.Array = direction) -> jax.Array:
            moved = [x + t * direction if n == place else x for n, x in enumerate(leaves)]
            return loss_of(jax.tree.unflatten(structure, moved))

        # Fourth-order differences: the error of the formula is far below that of float32.
        numeric = (8 * (along(step) - along(-step)) - (along(2 * step) - along(-2 * step))) / (12 * step)
        analytic = jnp.sum(grad * direction)
        np.testing.assert_allclose(analytic, numeric, rtol=2e-2, atol=2e-4)
        assert bool(jnp.any(grad != 0)), jax.tree_util.tree_flatten_with_path(params)[0][place][0]


@pytest.mark.usefixtures("standard_promotion")
def test_every_part_of_the_loss_counts_and_can_be_turned_off(dataset: Dataset):
    _, graphs, state, data = set_up(dataset, TINY)
    _, losses = epoch_of(dataset, TINY)(state, graphs, data)
    parts = losses.means
    assert set(parts) == {*train_step.LOSS_PARTS, *train_step.NORMS}
    assert all(value > 0 for value in parts.values())
    assert losses.failed_step == -1
    np.testing.assert_allclose(parts["loss"], sum(parts[name] for name in train_step.LOSS_PARTS[1:]), rtol=1e-5)
    for config, name in ((WITHOUT, "consistency"), (dataclasses.replace(TINY, knowledge_graph=False), "knowledge")):
        _, graphs, state, data = set_up(dataset, config)
        _, losses = epoch_of(dataset, config)(state, graphs, data)
        assert losses.means[name] == 0


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_padding_does_not_change_the_loss(dataset: Dataset, loss: str):
    model, graphs, state, data = set_up(dataset, dataclasses.replace(TINY, knowledge_graph=False, loss=loss))
    short = sampling.sample_batch(
        jax.random.key(0), data.interactions, jnp.arange(8), num_negatives=3, shared=loss == "softmax"
    )
    rows = short._replace(rng=None, negatives=short.negatives if loss == "bpr" else None)
    padded = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros_like(x)]), rows)._replace(rng=short.rng)
    if loss == "softmax":
        padded = padded._replace(negatives=short.negatives)
    loss_of = jax.jit(lambda batch: train_step.loss_fn(state.params, model, graphs, state.correlation, batch, None)[0])
    expected, actual = loss_of(short), loss_of(padded)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.usefixtures("standard_promotion")
def test_nothing_is_traced_again_after_the_first_epoch(dataset: Dataset, monkeypatch: pytest.MonkeyPatch):
    counts = {"loss": 0, "rebuild": 0}
    real_loss, real_rebuild = train_step.loss_fn, inspect.unwrap(correlation.rebuild)

    def counted_loss(*args):
        counts["loss"] += 1
        return real_loss(*args)

    def counted_rebuild(item_vectors, **options):
        counts["rebuild"] += 1
        return real_rebuild(item_vectors, **options)

    monkeypatch.setattr(train_step, "loss_fn", counted_loss)
    static = ("num_neighbors", "mutual", "recall_target", "axis")
    monkeypatch.setattr(correlation, "rebuild", jax.jit(counted_rebuild, static_argnames=static))
    model, graphs, state, data = set_up(dataset, TINY)
    run = train_step.make_run_epoch(model, make_optimizer(TINY))
    encode = jax.jit(model.encode)
    seen = []
    for epoch in range(5):
        if train_step.rebuild_is_due(epoch, TINY):
            state, _ = train_step.close_the_loop(state, graphs, TINY)
        state, _ = run(state, graphs, data)
        state = train_step.feed_back(state, encode(state.serving_params, graphs, state.correlation), graphs, TINY)
        seen.append(dict(counts))
    assert seen[0]["loss"] > 0
    assert seen[1]["rebuild"] == 1
    assert seen[-1] == seen[1]


@pytest.mark.usefixtures("standard_promotion")
def test_the_loop_feeds_the_next_epoch(dataset: Dataset):
    model, graphs, state, data = set_up(dataset, TINY)
    state, _ = epoch_of(dataset, TINY)(state, graphs, data)
    encoded = jax.jit(model.encode)(state.serving_params, graphs, state.correlation)
    state = train_step.feed_back(state, encoded, graphs, TINY)
    expected = np.where(np.asarray(graphs.warm)[:, None], encoded.final.items, 0.0)
    np.testing.assert_array_equal(state.item_vectors, expected)
    assert not np.asarray(state.correlation.edges.weight).any()
    state, kept = train_step.close_the_loop(state, graphs, TINY)
    assert kept == 0
    assert np.asarray(state.correlation.edges.weight).any()
    after = jax.jit(model.encode)(state.serving_params, graphs, state.correlation)
    assert np.abs(np.asarray(after.final.items) - np.asarray(encoded.final.items)).max() > 1e-6


@pytest.mark.usefixtures("standard_promotion")
def test_the_average_of_the_parameters_is_what_is_served(dataset: Dataset):
    _, graphs, state, data = set_up(dataset, TINY)
    now = expected = np.asarray(state.params["item_embedding"])
    for share in (0.0, 1 / 11, 0.15):  # the second epoch is still on the way to the momentum
        state, _ = epoch_of(dataset, TINY)(state, graphs, data)
        now = np.asarray(state.params["item_embedding"])
        expected = share * expected + (1 - share) * now
        np.testing.assert_allclose(state.serving_params["item_embedding"], expected, rtol=1e-5, atol=1e-7)
    assert np.abs(expected - now).max() > 1e-5
    _, graphs, state, data = set_up(dataset, WITHOUT)
    state, _ = epoch_of(dataset, WITHOUT)(state, graphs, data)
    assert state.average is None
    assert state.serving_params is state.params


@pytest.mark.parametrize("regression", [0.0, 0.5])
@pytest.mark.parametrize("warm_up", ["empty", "features"])
def test_cold_items_have_no_edges_in_the_correlation_graph(dataset: Dataset, warm_up: str, regression: float):
    config = dataclasses.replace(TINY, correlation_warm_up=warm_up, regression_weight=regression)
    train = dataset.train[~np.isin(dataset.train[:, 1], (3, 8))]
    model, graphs, state, _ = set_up(dataclasses.replace(dataset, train=train), config)
    encoded = jax.jit(model.encode)(state.serving_params, graphs, state.correlation)
    assert np.asarray(encoded.final.items)[[3, 8]].any(axis=1).all()  # they can be recommended
    closed, _ = train_step.close_the_loop(train_step.feed_back(state, encoded, graphs, config), graphs, config)
    for graph in (state.correlation, closed.correlation) if warm_up == "features" else (closed.correlation,):
        used = np.asarray(graph.edges.weight) > 0
        assert used.any()
        assert not np.isin(np.asarray(graph.senders)[used], (3, 8)).any()
        assert not np.isin(np.asarray(graph.receivers)[used], (3, 8)).any()


@pytest.mark.parametrize("weights", [{}, {"regression_weight": 0.5, "walk_weight": 0.2}])
@pytest.mark.parametrize("by", ["scores", "vectors"])
def test_items_are_near_by_the_scores_of_all_users_or_by_their_vectors(
    dataset: Dataset, by: str, weights: dict[str, float]
):
    config = dataclasses.replace(TINY, correlation_by=by, **weights)
    model, graphs, state, _ = set_up(dataset, config)
    encoded = jax.jit(model.encode)(state.serving_params, graphs, state.correlation)
    fed = train_step.feed_back(state.replace(epoch=jnp.int32(1)), encoded, graphs, config)
    closed, _ = train_step.close_the_loop(fed, graphs, config)
    if by == "scores":
        users, items = (np.asarray(x, np.float64) for x in encoded.ranked)
        near = np.array(np.corrcoef(items @ users.T))
    else:
        assert fed.score_covariance is None
        items = np.asarray(encoded.final.items, np.float64)
        unit = items / np.linalg.norm(items, axis=1, keepdims=True)
        near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    warm = np.asarray(graphs.warm)
    near[:, ~warm] = -np.inf
    k = config.correlation_neighbors
    found = np.asarray(correlation.neighbors(closed.correlation, k))
    for item in np.flatnonzero(warm):
        best = np.argsort(-near[item])[:k]
        assert set(found[item]) - {-1} == set(best[near[item, best] > 0])


def test_momentum_keeps_a_share_of_the_older_vectors(dataset: Dataset):
    config = dataclasses.replace(TINY, correlation_momentum=0.75)
    model, graphs, state, _ = set_up(dataset, config)
    encoded = jax.jit(model.encode)(state.serving_params, graphs, state.correlation)
    first = train_step.feed_back(state.replace(epoch=jnp.int32(1)), encoded, graphs, config)
    np.testing.assert_allclose(first.item_vectors, jnp.where(graphs.warm[:, None], encoded.final.items, 0.0))
    users, items = encoded.ranked.users, np.asarray(encoded.ranked.items)[np.asarray(graphs.warm)]
    variance = np.var(np.asarray(users) @ items.T, axis=0).mean()
    np.testing.assert_allclose(first.score_covariance, np.cov(users.T, bias=True) / variance, rtol=1e-3, atol=1e-5)
    nothing = encoded.final._replace(items=jnp.zeros_like(encoded.final.items))
    half = encoded._replace(final=nothing, ranked=jax.tree.map(jnp.zeros_like, encoded.ranked))
    second = train_step.feed_back(first.replace(epoch=jnp.int32(2)), half, graphs, config)
    np.testing.assert_allclose(second.item_vectors, 0.75 * first.item_vectors, rtol=1e-6)
    np.testing.assert_allclose(second.score_covariance, 0.75 * first.score_covariance, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "due"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"correlation_start": 3}, [3, 4, 5]),
        ({"correlation_period": 2}, [1, 3, 5]),
        ({"self_loop": False}, []),
        ({"side_information": False}, []),
        ({"correlation_into": ()}, []),
    ],
)
def test_when_the_rebuild_is_due(change: dict, due: list[int]):
    config = dataclasses.replace(TINY, **change)
    assert [epoch for epoch in range(6) if train_step.rebuild_is_due(epoch, config)] == due


@pytest.mark.usefixtures("standard_promotion")
def test_accumulated_gradients_make_one_update_of_their_mean(dataset: Dataset):
    config = dataclasses.replace(TINY, accumulate_steps=2)
    model, graphs, state, data = set_up(dataset, config)
    step = jax.jit(train_step.make_train_step(model, make_optimizer(config)))
    index = jnp.arange(16)
    first, _ = step(state, graphs, data, index)
    jax.tree.map(np.testing.assert_array_equal, first.params, state.params)
    second, _ = step(first, graphs, data, index[::-1])

    @jax.jit
    def gradient(number: int, index: jax.Array):
        batch_rng, triple_rng = jax.random.split(jax.random.fold_in(state.rng, number))
        batch = sampling.sample_batch(
            batch_rng, data.interactions, index, num_negatives=config.softmax_negatives, shared=True
        )
        triples = sampling.sample_triples(
            triple_rng,
            data.triples,
            num_triples=data.num_triples,
            num_entities=model.num_entities,
            batch_size=config.knowledge_batch,
        )
        grads, _ = jax.grad(train_step.loss_fn, has_aux=True)(
            state.params, model, graphs, state.correlation, batch, triples
        )
        return grads

    mean = jax.tree.map(lambda a, b: (a + b) / 2, gradient(0, index), gradient(1, index[::-1]))
    adam = make_optimizer(TINY)
    updates, _ = adam.update(mean, adam.init(state.params), state.params)
    expected = jax.tree.map(lambda x, u: x + u, state.params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), second.params, expected)
