"""Gradients stay finite, and right, where there is nothing to divide by, to attend to or to learn from."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slif_jax import correlation, ops, train_step
from slif_jax.config import Config
from slif_jax.data import Dataset, Modality, validate
from slif_jax.data.dataset import numbers
from slif_jax.graphs import build_graphs, symmetric_normalise
from slif_jax.kernels import dispatch
from slif_jax.losses import info_nce_loss, normalise_rows, sampled_softmax_loss
from slif_jax.model import make_model
from slif_jax.propagate import attend_knowledge, merge_attention, propagate, propagate_features
from slif_jax.sampling import Batch, TripleBatch

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def assert_finite(tree: Any, what: str = "") -> None:
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        assert np.isfinite(np.asarray(leaf, np.float64)).all(), f"{what}{jax.tree_util.keystr(path)}: {leaf}"


# The kernels, against derivatives of plain NumPy in float64.

NUM_SENDERS, NUM_RECEIVERS, WIDTH, NUM_RELATIONS = 5, 6, 3, 2
# Receivers 1 and 5 and sender 4 have no edge; the edge (0, 2) is there three times.
SENDERS, RECEIVERS, RELATIONS = [0, 0, 0, 1, 2, 3, 3], [2, 2, 2, 2, 0, 3, 4], [0, 0, 1, 1, 0, 1, 0]


def graph_of(weight: list[float] | None, senders: list[int] = SENDERS) -> Any:
    count = len(senders)
    return ops.build_graph(
        senders,
        RECEIVERS[:count],
        weight,
        RELATIONS[:count],
        num_senders=NUM_SENDERS,
        num_receivers=NUM_RECEIVERS,
        ell=True,
    )


GRAPHS = {
    "duplicates": graph_of([0.5, 0.5, 1.5, 0.2, 1.0, 0.7, 0.3]),
    "absent": graph_of([0.5, 0.0, 1.5, 0.2, 0.0, 0.7, 0.0]),
    "all_absent": graph_of([0.0] * 7),
    "no_edges": ops.pad_edges(graph_of([], []), 7),
}


def tables(kind: str, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"query": NUM_RECEIVERS, "x": NUM_SENDERS, "vectors": NUM_RELATIONS}
    drawn = {name: rng.normal(size=(rows, WIDTH)) for name, rows in shapes.items()}
    return {name: np.zeros_like(x) if kind == "zeros" else x for name, x in drawn.items()}


def edges_of(graph: Any) -> tuple[np.ndarray, ...]:
    count = int(graph.globals.indptr[-1])
    parts = (graph.senders, graph.receivers, graph.edges.relation, graph.edges.weight)
    return tuple(np.asarray(part)[:count] for part in parts)


def spmm_in_numpy(graph: Any, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    senders, receivers, *_ = edges_of(graph)
    out = np.zeros((NUM_RECEIVERS, WIDTH))
    np.add.at(out, receivers, weight[: len(senders), None] * x[senders])
    return out


def attention_in_numpy(
    graph: Any, query: np.ndarray, x: np.ndarray, vectors: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    senders, receivers, relation, stored = edges_of(graph)
    values, logsumexp = np.zeros((NUM_RECEIVERS, WIDTH)), np.zeros(NUM_RECEIVERS)
    for row in range(NUM_RECEIVERS):
        here = np.flatnonzero((receivers == row) & (stored > 0))
        if len(here):
            messages = x[senders[here]] * vectors[relation[here]]
            logits = messages @ query[row] / np.sqrt(WIDTH)
            exps = weight[here] * np.exp(logits - logits.max())
            values[row] = exps @ messages / exps.sum()
            logsumexp[row] = np.log(exps.sum()) + logits.max()
    return values, logsumexp


def slopes(loss: Callable[..., float], arguments: list[np.ndarray], step: float = 1e-6) -> list[np.ndarray]:
    """Central differences of a loss, entry by entry."""
    found = []
    for place, argument in enumerate(arguments):
        slope = np.zeros_like(argument)
        for index in np.ndindex(argument.shape):
            ends = []
            for sign in (1, -1):
                moved = [np.array(a) for a in arguments]
                moved[place][index] += sign * step
                ends.append(loss(*moved))
            slope[index] = (ends[0] - ends[1]) / (2 * step)
        found.append(slope)
    return found


BACKENDS = [name for name in ("reference", "xla", "native") if dispatch.is_supported("spmm", name)]


@pytest.mark.parametrize("kind", ["random", "zeros"])
@pytest.mark.parametrize("name", GRAPHS)
def test_spmm_and_sddmm(name: str, kind: str):
    graph, table, rng = GRAPHS[name], tables(kind), np.random.default_rng(1)
    weight = np.asarray(graph.edges.weight, np.float64)
    out, along = rng.normal(size=(NUM_RECEIVERS, WIDTH)), rng.normal(size=len(weight))
    senders, receivers, *_ = edges_of(graph)

    def expected(x: np.ndarray, w: np.ndarray, y: np.ndarray) -> float:
        products = np.sum(y[receivers] * x[senders], axis=1)
        return float(np.sum(out * spmm_in_numpy(graph, x, w)) + np.sum(along[: len(senders)] * products))

    arguments = [table["x"], weight, table["query"]]
    want = slopes(expected, arguments)
    for implementation in BACKENDS:

        def loss(x: Any, w: Any, y: Any, implementation: str = implementation) -> Any:
            sums = ops.spmm(graph, x, w, implementation=implementation)
            products = ops.sddmm(graph, y, x, implementation=implementation)
            return jnp.sum(jnp.float32(out) * sums) + jnp.sum(jnp.float32(along) * products)

        got = jit(jax.grad(loss, argnums=(0, 1, 2)))(*(jnp.float32(a) for a in arguments))
        for ours, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=implementation)


@pytest.mark.parametrize("kind", ["random", "zeros"])
@pytest.mark.parametrize("name", GRAPHS)
def test_edge_attention(name: str, kind: str):
    graph, table, rng = GRAPHS[name], tables(kind), np.random.default_rng(1)
    weight = np.asarray(graph.edges.weight, np.float64)
    out, ends = rng.normal(size=(NUM_RECEIVERS, WIDTH)), rng.normal(size=NUM_RECEIVERS)

    def expected(*arguments: np.ndarray) -> float:
        values, logsumexp = attention_in_numpy(graph, *arguments)
        return float(np.sum(out * values) + np.sum(ends * logsumexp))

    arguments = [table["query"], table["x"], table["vectors"], weight]
    want = slopes(expected, arguments)
    want[3][weight <= 0] = 0.0  # an absent edge has no derivative
    for implementation in BACKENDS:

        def loss(query: Any, x: Any, vectors: Any, w: Any, implementation: str = implementation) -> Any:
            found = ops.edge_attention(graph, query, x, vectors, weight=w, implementation=implementation)
            logsumexp = jnp.where(jnp.isfinite(found.logsumexp), found.logsumexp, 0.0)
            return jnp.sum(jnp.float32(out) * found.values) + jnp.sum(jnp.float32(ends) * logsumexp)

        got = jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*(jnp.float32(a) for a in arguments))
        for ours, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4, err_msg=implementation)


@pytest.mark.parametrize("implementation", BACKENDS)
def test_attention_with_tiny_and_huge_values(implementation: str):
    graph, table = GRAPHS["duplicates"], tables("random")
    weight = jnp.asarray([1e-40, 1.0, 1e-30, 1e20, 1.0, 1e-38, 1.0], jnp.float32)

    def loss(query: Any, x: Any, vectors: Any, weight: Any, scale: Any) -> Any:
        found = ops.edge_attention(graph, query, x, vectors, weight=weight, implementation=implementation)
        return jnp.sum(found.values) / scale

    both = jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
    for scale in np.array([1e-30, 1.0, 1e4, 1e15], np.float32):
        query, x, vectors = (jnp.float32(table[name]) for name in ("query", "x", "vectors"))
        assert_finite(both(query * scale, x * scale, vectors, weight, scale), f"scale {scale}: ")


# Propagation.


@pytest.mark.parametrize("kind", ["random", "zeros"])
def test_propagation_over_empty_graphs(kind: str):
    items, width = 4, 3
    rng = np.random.default_rng(0)
    x = jnp.asarray(np.zeros((items, width)) if kind == "zeros" else rng.normal(size=(items, width)), jnp.float32)
    none = correlation.empty(items, 2)
    graph = ops.build_graph([1, 1], [0, 0], [0.5, 0.5], [0, 0], num_senders=items, num_receivers=items)

    def loss(x: Any, share: Any) -> Any:
        spread = propagate(graph, x, num_layers=2, correlation=none, correlation_weight=share)
        carried = propagate_features(none, x, num_layers=2, correlation=none, correlation_weight=share)
        relation = jnp.ones((1, width)) + jnp.sum(x)
        attended = attend_knowledge(graph, x, x, relation, correlation=none, correlation_relation=relation)
        rebuilt = correlation.rebuild(x, num_neighbors=2)
        return sum((jnp.sum(part**2) for part in (spread, carried, attended, ops.spmm(rebuilt, x))), jnp.zeros(()))

    value, grads = jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, jnp.asarray(0.5))
    assert_finite((value, grads))
    assert (float(value) == 0) == (kind == "zeros")


def test_the_merge_of_attentions_without_edges():
    none = ops.AttentionOutput(jnp.zeros((4, 2)), jnp.asarray([-jnp.inf, -jnp.inf, 0.3, 90.0]))
    some = ops.AttentionOutput(jnp.ones((4, 2)), jnp.asarray([-jnp.inf, 0.5, -jnp.inf, -90.0]))
    grads = jax.grad(lambda a, b: jnp.sum(merge_attention(a, b) ** 2), argnums=(0, 1))(none, some)
    assert_finite(grads)
    np.testing.assert_array_equal(grads[1].values[1], [2.0, 2.0])  # its only edges


def test_weights_of_nodes_that_receive_next_to_nothing():
    senders, receivers = jnp.asarray([0, 1, 2], jnp.int32), jnp.asarray([1, 0, 1], jnp.int32)

    @jit
    def both(weight: Any) -> Any:
        normalised = symmetric_normalise(senders, receivers, weight, num_nodes=4)
        return normalised, jax.grad(lambda w: jnp.sum(symmetric_normalise(senders, receivers, w, num_nodes=4) ** 2))(
            weight
        )

    for weight in (0.0, 1e-40, 1e-30, 1e-20, 1.0):
        normalised, slope = both(jnp.full(3, weight, jnp.float32))
        assert_finite((normalised, slope), f"weight {weight}: ")
        assert (weight >= 1e-20) == bool(jnp.any(normalised > 0))


# Losses.


def test_rows_of_no_length():
    everything = jnp.ones((3, 3), bool)  # every negative is excluded, as with one item in all

    @jit
    @jax.grad
    def slope(x: Any, mask: Any) -> Any:
        softmax = [
            sampled_softmax_loss(x, x, x, excluded=everything, temperature=1e-3, focus=focus) for focus in (0.0, 0.5)
        ]
        contrast = info_nce_loss(x, x, mask=mask, temperature=1e-3)
        return jnp.sum(normalise_rows(x)) + sum(jnp.sum(part) for part in (*softmax, contrast))

    for length in (0.0, 1e-30, 1e-13, 1e-11, 1.0, 1e18):
        for mask in (jnp.zeros(3, bool), jnp.ones(3, bool)):
            assert_finite(slope(jnp.full((3, 2), length, jnp.float32), mask), f"length {length}: ")


# The whole loss.


def data_of(
    train: list[tuple[int, int]],
    triples: list[tuple[int, int, int]],
    features: dict[str, tuple[float, list[bool]]],
    *,
    num_users: int,
    num_items: int,
) -> Dataset:
    """A data set; each modality has one value for all items, and tells which items have it."""
    empty = np.zeros((0, 2), np.int32)
    return validate(
        Dataset(
            name="odd",
            num_users=num_users,
            num_items=num_items,
            num_entities=num_items + 3,
            num_relations=2,
            train=np.asarray(train, np.int32).reshape(-1, 2),
            valid=empty,
            test=empty,
            triples=np.asarray(triples, np.int32).reshape(-1, 3),
            features={
                name: Modality(np.full((num_items, 2), value, np.float32), np.asarray(present))
                for name, (value, present) in features.items()
            },
            user_ids=numbers(num_users),
            item_ids=numbers(num_items),
        )
    )


TRAIN = [(0, 0), (0, 1), (1, 0), (2, 2), (3, 3)]
TRIPLES = [(0, 0, 6), (0, 0, 7), (1, 1, 6), (2, 0, 2)]
ALL, NOBODY = [True] * 6, [False] * 6
# User 4 has nothing. Item 3 lacks every modality and has no triple, item 4 has no interactions, item 5 has nothing at
# all. Entity 8 is alone.
SOME = [True, True, True, False, True, False]
ODD = {
    "isolated": data_of(TRAIN, TRIPLES, {"text": (0.5, SOME), "visual": (1.0, SOME)}, num_users=5, num_items=6),
    "zero_features": data_of(TRAIN, TRIPLES, {"text": (0.0, ALL), "visual": (0.0, SOME)}, num_users=5, num_items=6),
    "nobody_has_it": data_of(TRAIN, TRIPLES, {"text": (1.0, NOBODY), "visual": (1.0, SOME)}, num_users=5, num_items=6),
    "no_triples": data_of(TRAIN, [], {"text": (0.5, SOME), "visual": (1.0, SOME)}, num_users=5, num_items=6),
    "one_item": data_of([(0, 0)], [(0, 0, 1)], {"text": (0.0, [True])}, num_users=2, num_items=1),
    "nothing_beside": data_of(TRAIN, [], {}, num_users=5, num_items=6),
}
SMALL = Config(
    dataset="synthetic",
    width=4,
    correlation_neighbors=2,
    feature_neighbors=2,
    batch_size=8,
    softmax_negatives=4,
    consistency_batch=4,
    collaborative_consistency_weight=0.1,
    learn_feature_correlation=True,
    softmax_focus=0.5,
)
NOTHING = dataclasses.replace(
    SMALL,
    consistency_weight=0.0,
    collaborative_consistency_weight=0.0,
    knowledge_weight=0.0,
    l2=0.0,
    dropout=0.0,
    side_weight=0.0,
    interaction_correlation=0.0,
    knowledge_correlation=0.0,
    missing_features="learned",
)


def batch_of(dataset: Dataset, kind: str, *, shared: bool) -> tuple[Batch, TripleBatch | None]:
    """Real rows twice over, isolated users and items, or padding alone; a triple that is its own corruption."""
    pairs = np.resize(dataset.train, (8, 2))
    if kind == "isolated":
        pairs = np.full((8, 2), (dataset.num_users - 1, dataset.num_items - 1), np.int32)
    users, items = (jnp.asarray(column) for column in pairs.T)
    negatives = np.resize(np.arange(dataset.num_items, dtype=np.int32), (1, 4) if shared else (8, 1))
    weight = np.full(8, kind != "padding", np.float32)
    ids = jnp.asarray(np.zeros(4, np.int32))
    triples = TripleBatch(ids, ids, ids, ids) if len(dataset.triples) else None
    return Batch(users, items, jnp.asarray(negatives), jax.random.key(0), jnp.asarray(weight)), triples


CASES = {
    "isolated": SMALL,
    "zero_features": SMALL,
    "nobody_has_it": SMALL,
    "nobody_has_it_nor_any_part_weighs": NOTHING,
    "no_triples": dataclasses.replace(SMALL, loss="bpr"),
    "one_item": dataclasses.replace(SMALL, loss="bpr"),
    "nothing_beside": SMALL,
}


@pytest.mark.parametrize("name", CASES)
def test_the_whole_loss(name: str):
    dataset, config = ODD[name.removesuffix("_nor_any_part_weighs")], CASES[name]
    graphs, model = build_graphs(dataset, config), make_model(dataset, config)
    none = correlation.empty(dataset.num_items, config.correlation_neighbors)
    rebuilt = correlation.rebuild(jnp.ones((dataset.num_items, 4)), num_neighbors=2)
    params = model.init_params(jax.random.key(0), graphs, none)
    zeros = jax.tree.map(jnp.zeros_like, params)

    @jit
    def both(params: Any, correlation_graph: Any, batch: Batch, triples: TripleBatch | None) -> Any:
        def loss(params: Any) -> Any:
            return train_step.loss_fn(params, model, graphs, correlation_graph, batch, triples)[0]

        return jax.value_and_grad(loss)(params)

    for kind in ("rows", "isolated", "padding"):
        batch, triples = batch_of(dataset, kind, shared=config.loss == "softmax")
        for graph, values in ((none, params), (rebuilt, params), (none, zeros), (rebuilt, zeros)):
            value, grads = both(values, graph, batch, triples)
            assert_finite((value, grads), f"{name}, {kind}: ")
            if kind == "rows" and values is params and name != "one_item":
                assert any(bool(np.any(np.asarray(grad))) for grad in jax.tree.leaves(grads))
