"""What callers can get wrong: each array that comes from outside is used, or refused in words, and never believed."""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slif_jax import evaluate, ops, recommend, sampling, similar
from slif_jax.config import Config
from slif_jax.data import DataError, Dataset, Modality
from slif_jax.data.synthetic import synthetic
from slif_jax.graphs import build_graphs
from slif_jax.kernels import dispatch
from slif_jax.metrics import ranking_metrics
from slif_jax.model import Vectors

ROOT = Path(__file__).resolve().parents[1]
few = settings(max_examples=40, deadline=None, derandomize=True, database=None)
many = settings(max_examples=4000, deadline=None, derandomize=True, database=None)


def unchecked(function: Any) -> Any:
    """The function without the type checks of the tests, to see what it does itself."""
    return inspect.unwrap(function)


# Arrays of any kind.

NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 5, -1, -(2**31), 2**31 - 1, 2**31, 2**40, 2**63 - 1])
FLOATS = st.sampled_from([0.0, 0.5, 1.0, -1.0, 1e-40, 1e39, np.nan, np.inf, -np.inf])


@st.composite
def arrays(draw: Any, length: int) -> np.ndarray:
    """An array that may be right, and often is not."""
    kind = draw(st.sampled_from(["right"] * 4 + ["int64", "uint64", "float", "bool", "text", "object", "complex"]))
    count = draw(st.sampled_from([length] * 5 + [0, 1, length + 1]))
    if kind == "right":
        array = np.asarray(draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)), np.int32)
    elif kind in ("int64", "uint64"):
        array = np.asarray(draw(st.lists(NUMBERS, min_size=count, max_size=count)), np.int64).astype(kind)
    elif kind == "float":
        array = np.asarray(draw(st.lists(FLOATS, min_size=count, max_size=count)), np.float64)
    elif kind == "bool":
        array = np.ones(count, np.bool_)
    elif kind == "text":
        array = np.full(count, "1")
    else:
        array = np.full(count, None if kind == "object" else 1j)
    form = draw(st.sampled_from(["plain"] * 3 + ["strided", "big_endian", "column"]))
    if form == "strided":
        return np.repeat(array, 2)[::2]
    if form == "big_endian":
        return array.astype(array.dtype.newbyteorder(">"))
    return array[:, None] if form == "column" else array


@st.composite
def edge_lists(draw: Any) -> tuple[tuple[Any, ...], dict[str, int]]:
    length = draw(st.integers(0, 4))
    ends = draw(arrays(length)), draw(arrays(length))
    more = [draw(st.one_of(st.none(), arrays(length))) for _ in range(2)]
    sizes = st.sampled_from([5, 5, 5, 1, 0, -1, 2**31])
    return (*ends, *more), {"num_senders": draw(sizes), "num_receivers": draw(st.sampled_from([5, 5, 1, 0, -1]))}


def check_build_graph(case: tuple[tuple[Any, ...], dict[str, int]]) -> None:
    (senders, receivers, weight, relation), sizes = case
    if max(sizes.values()) == 2**31 and len(senders) == len(receivers) == 0:
        return  # that would be a table of 2**31 rows
    try:
        graph = unchecked(ops.build_graph)(senders, receivers, weight, relation, **sizes, ell=False)
    except ValueError:
        return
    layout = graph.globals
    assert int(layout.indptr[-1]) == len(senders), case
    if not len(senders):
        return  # of any type
    np.testing.assert_array_equal(np.sort(graph.senders), np.sort(np.asarray(senders).astype(np.int64)))
    np.testing.assert_array_equal(graph.receivers, np.sort(np.asarray(receivers).astype(np.int64)))
    if graph.edges.weight is not None:
        assert np.isfinite(graph.edges.weight).all(), case
    if relation is not None:
        np.testing.assert_array_equal(np.sort(graph.edges.relation), np.sort(np.asarray(relation).astype(np.int64)))


@few
@given(edge_lists())
def test_build_graph(case: tuple[tuple[Any, ...], dict[str, int]]):
    check_build_graph(case)


@pytest.mark.fuzz
@many
@given(edge_lists())
def test_build_graph_often(case: tuple[tuple[Any, ...], dict[str, int]]):
    check_build_graph(case)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": ["1", "2"]}, "`weight` must be real numbers: got dtype <U1"),
        ({"weight": [1.0, np.nan]}, "`weight` must be finite in float32: got nan at position 1"),
        ({"weight": [1e39, 1.0]}, "`weight` must be finite in float32: got 1e.39 at position 0"),
        ({"weight": [1j, 1.0]}, "`weight` must be real numbers: got dtype complex128"),
        ({"relation": [0.5, 1.0]}, "`relation` must be integers: got dtype float64"),
        ({"relation": np.array([2**31, 0])}, "`relation` must fit in int32: got 2147483648 at position 0"),
    ],
)
def test_wrong_edge_data_are_named(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        unchecked(ops.build_graph)([0, 1], [1, 0], num_senders=2, num_receivers=2, **arguments)


@pytest.mark.parametrize(
    ("neighbors", "weights", "message"),
    [
        (np.zeros((2, 2), np.int32), np.zeros((2, 1), np.float32), "must be equal matrices"),
        (np.zeros(2, np.int32), np.zeros(2, np.float32), "must be equal matrices"),
        (np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32), "signed integers, -1 for none"),
        (np.full((2, 2), 3, np.int32), np.zeros((2, 2), np.float32), "below `num_senders`=3: got 3"),
    ],
)
def test_wrong_neighbours_are_named(neighbors: np.ndarray, weights: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        unchecked(ops.fixed_degree_graph)(jnp.asarray(neighbors), jnp.asarray(weights), 3)


# Index arrays that no builder made: kernels stay inside their arrays, whatever the numbers.

_INDEX = st.sampled_from([0, 1, 2, 3, 4, 5, 6, -1, -7, 2**31 - 1, -(2**31)])
_SIZES = {"senders": 6, "receivers": 6, "indptr": 5, "t_indptr": 4, "t_receivers": 6, "t_perm": 6, "relation": 6}
_GRAPH: Any = ops.build_graph(
    [0, 1, 2, 0, 1, 2], [0, 0, 1, 2, 3, 3], np.ones(6), [0, 1] * 3, num_senders=3, num_receivers=4
)
_ROUTES = [name for name in ("xla", "native") if dispatch.is_supported("spmm", name)]


@st.composite
def broken_graphs(draw: Any) -> dict[str, np.ndarray]:
    names = draw(st.lists(st.sampled_from(sorted(_SIZES)), min_size=1, max_size=3, unique=True))
    return {
        name: np.asarray(draw(st.lists(_INDEX, min_size=_SIZES[name], max_size=_SIZES[name])), np.int32)
        for name in names
    }


@functools.cache
def _everything(implementation: str) -> Any:
    query, x, vectors = (jnp.ones((rows, 16)) * 0.5 for rows in (4, 3, 2))

    @jax.jit
    def run(graph: Any) -> Any:
        def total(query: Any, x: Any, vectors: Any, weight: Any) -> Any:
            found = ops.edge_attention(graph, query, x, vectors, weight=weight, implementation=implementation)
            sums = ops.spmm(graph, x, weight, implementation=implementation)
            return (
                jnp.sum(found.values)
                + jnp.sum(sums)
                + jnp.sum(ops.sddmm(graph, query, x, implementation=implementation))
            )

        exclude = ops.Exclusions(graph.globals.indptr, graph.senders)
        listed = ops.topk(query, x, 2, exclude=exclude, implementation=implementation)
        return jax.grad(total, argnums=(0, 1, 2, 3))(query, x, vectors, graph.edges.weight), listed

    return run


def check_kernels(changes: dict[str, np.ndarray], implementation: str) -> None:
    graph = _GRAPH._replace(globals=_GRAPH.globals._replace(ell=None, t_ell=None))
    for name, values in changes.items():
        array = jnp.asarray(values)
        if name == "relation":
            graph = graph._replace(edges=graph.edges._replace(relation=array))
        elif name in ("senders", "receivers"):
            graph = graph._replace(**{name: array})
        else:
            graph = graph._replace(globals=graph.globals._replace(**{name: array}))
    try:
        _, listed = jax.block_until_ready(_everything(implementation)(graph))
    except jax.errors.JaxRuntimeError as error:
        if "slif_jax native kernel" not in str(error):
            raise
        return
    assert ((listed.indices >= -1) & (listed.indices < 3)).all()


@pytest.mark.parametrize("implementation", _ROUTES)
@few
@given(broken_graphs())
def test_kernels_read_nothing_outside(implementation: str, changes: dict[str, np.ndarray]):
    check_kernels(changes, implementation)


@pytest.mark.fuzz
@pytest.mark.parametrize("implementation", _ROUTES)
@many
@given(broken_graphs())
def test_kernels_read_nothing_outside_often(implementation: str, changes: dict[str, np.ndarray]):
    check_kernels(changes, implementation)


# Data sets made by hand.


@pytest.fixture(scope="module")
def made() -> Dataset:
    return synthetic(num_users=12, num_items=9, num_clusters=2, mean_degree=4.0, modalities={"text": 3}, seed=1)


def _other(pairs: np.ndarray, place: tuple[int, int], value: int) -> np.ndarray:
    changed = np.array(pairs)
    changed[place] = value
    return changed


def _text(values: np.ndarray, present: np.ndarray | None = None) -> dict[str, Any]:
    return {"features": {"text": Modality(values, np.ones(len(values), np.bool_) if present is None else present)}}


WRONG: dict[str, Callable[[Dataset], dict[str, Any]]] = {
    "user out of range": lambda d: {"train": _other(d.train, (-1, 0), 12)},
    "negative item": lambda d: {"train": _other(d.train, (0, 1), -1)},
    "not sorted": lambda d: {"train": d.train[::-1]},
    "repeated": lambda d: {"train": np.repeat(d.train, 2, axis=0)},
    "int64": lambda d: {"train": d.train.astype(np.int64)},
    "floats": lambda d: {"valid": d.valid.astype(np.float32)},
    "objects": lambda d: {"test": d.test.astype(object)},
    "big-endian": lambda d: {"test": d.test.astype(">i4")},
    "a column": lambda d: {"train": d.train[:, 0]},
    "nothing": lambda d: {"train": d.train[:0]},
    "in two splits": lambda d: {"valid": d.train},
    "head out of range": lambda d: {"triples": _other(d.triples, (0, 0), 10**6)},
    "relation out of range": lambda d: {"num_relations": 1},
    "too few users": lambda d: {"num_users": 3},
    "too few entities": lambda d: {"num_entities": 3},
    "ids that are numbers": lambda d: {"user_ids": np.arange(12)},
    "too few ids": lambda d: {"item_ids": d.item_ids[:-1]},
    "NaN": lambda d: _text(np.full((9, 3), np.nan, np.float32)),
    "too few rows": lambda d: _text(np.ones((8, 3), np.float32)),
    "no width": lambda d: _text(np.ones((9, 0), np.float32)),
    "texts": lambda d: _text(np.full((9, 3), "1")),
    "a mask of numbers": lambda d: _text(np.ones((9, 3), np.float32), np.ones(9)),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_data_set_is_refused_wherever_it_enters(made: Dataset, what: str):
    config = Config(dataset="synthetic", topk=(5,), select_on="recall@5")
    wrong = dataclasses.replace(made, **WRONG[what](made))
    enter = [lambda: sampling.interactions_for_sampling(wrong)]
    if what not in ("not sorted", "repeated", "nothing", "in two splits"):  # these matter to sampling alone
        enter += [lambda: build_graphs(wrong, config), lambda: evaluate.ranking_task(wrong, "test", config)]
    for call in enter:
        with pytest.raises(DataError) as caught:
            call()
        assert str(caught.value).isprintable()


def test_a_data_set_is_checked_once(made: Dataset, monkeypatch: pytest.MonkeyPatch):
    copy = dataclasses.replace(made)
    sampling.interactions_for_sampling(copy)
    monkeypatch.setattr("slif_jax.data.checks._check_triples", None)
    sampling.interactions_for_sampling(copy)
    with pytest.raises(TypeError):
        sampling.interactions_for_sampling(dataclasses.replace(made))


# Vectors, lists and metrics.


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ((12, 4), (8, 4), r"per item \(9\)"),
        ((3, 4), (9, 4), "a row per user"),
        ((12, 4), (9, 5), "equally wide"),
        ((12,), (9,), r"got shapes \(12,\) and \(9,\)"),
    ],
)
def test_vectors_of_other_data(made: Dataset, users: tuple[int, ...], items: tuple[int, ...], message: str):
    task = evaluate.ranking_task(made, "test", Config(topk=(5,), select_on="recall@5"))
    with pytest.raises(ValueError, match=message):
        unchecked(evaluate.evaluate_vectors)(unchecked(Vectors)(jnp.ones(users), jnp.ones(items)), task)


def test_cut_offs_far_beyond_the_items(made: Dataset):
    config = Config(topk=(5, 9, 10**9), select_on="recall@5", eval_block=4)
    vectors = Vectors(jax.random.normal(jax.random.key(0), (12, 4)), jax.random.normal(jax.random.key(1), (9, 4)))
    found = evaluate.evaluate_vectors(vectors, evaluate.ranking_task(made, "test", config))
    assert found.hits.shape[1] == 9
    means = found.means()
    assert means["recall@1000000000"] == means["recall@9"] == 1
    assert means["ndcg@1000000000"] == pytest.approx(means["ndcg@9"])


@pytest.mark.parametrize(
    "listed", [np.array([0.5]), np.array(["1"]), np.array([-1]), np.array([9]), np.zeros(0, np.int64)]
)
def test_candidates_that_are_no_items(made: Dataset, listed: np.ndarray):
    rules = dataclasses.replace(Config().rules(), candidates="listed")
    with pytest.raises(ValueError, match="`candidates` must be item ids"):
        evaluate.ranking_task(made, "test", Config(), protocol=rules, candidates=listed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topk": ()}, "`topk` must be cut-offs of at least 1"),
        ({"topk": (5, 0)}, "`topk` must be cut-offs of at least 1"),
        ({"hits": np.ones((2, 3))}, "`hits` must be bool"),
        ({"hits": np.ones(3, bool)}, "`hits` must be bool"),
        ({"num_relevant": np.ones(3, np.int64)}, "a row per entry of `num_relevant`"),
        ({"num_relevant": np.ones(2)}, "`num_relevant` must be counts"),
        ({"num_relevant": np.full(2, -1)}, "`num_relevant` must be counts"),
    ],
)
def test_metrics_of_what_is_no_list(change: dict[str, Any], message: str):
    arguments = {"hits": np.ones((2, 3), bool), "num_relevant": np.ones(2, np.int64), "topk": (1,), **change}
    with pytest.raises(ValueError, match=message):
        unchecked(ranking_metrics)(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": np.array([5])}, r"`items` must be a vector of integers in \[0, 5\)"),
        ({"items": np.array([-1])}, "`items` must be"),
        ({"items": np.array([0.5])}, "`items` must be"),
        ({"items": np.zeros((1, 1), np.int64)}, "`items` must be"),
        ({"n": 0}, "`n` and `block` must be at least 1: got 0"),
        ({"block": -1}, "must be at least 1: got 3 and -1"),
    ],
)
def test_neighbours_of_what_is_no_item(change: dict[str, Any], message: str):
    arguments = {"items": np.array([0]), "n": 3, "block": 8, **change}
    with pytest.raises(ValueError, match=message):
        next(unchecked(similar.by_vectors)(jnp.ones((5, 2)), **arguments))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": np.array([0.5])}, "`users` must be a vector of integers: got float64"),
        ({"users": np.array([[0]])}, "`users` must be a vector of integers"),
        ({"users": np.array([1, 0])}, "`users` must be distinct, ascending"),
        ({"candidates": np.array([9])}, r"`candidates` must be distinct, ascending and in \[0, 9\)"),
        ({"candidates": np.array(["1"])}, "`candidates` must be a vector of integers"),
        ({"seen": np.array([0, 1])}, r"`seen` must be \[n, 2\] integers"),
        ({"seen": np.array([[0, -1]])}, "`seen` must hold users in"),
        ({"seen": np.array([[12, 0]])}, "`seen` must hold users in"),
        ({"n": 0}, "`n` and `block` must be at least 1: got 0 and"),
        ({"block": 0}, "`n` and `block` must be at least 1: got 3 and 0"),
    ],
)
def test_lists_for_what_is_no_user(made: Dataset, change: dict[str, Any], message: str):
    encoded: Any = types.SimpleNamespace(ranked=Vectors(jnp.ones((12, 2)), jnp.ones((9, 2))))
    arguments = {"users": np.arange(12), "n": 3, **change}
    with pytest.raises(ValueError, match=message):
        next(unchecked(recommend.top_n)(encoded, made, **arguments))
