"""What `experiments.bench` times: graphs, our operations and their peers."""

import functools
import importlib
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slif_jax import ops

COLUMNS = 64
NUM_RELATIONS = 20
TOP = 10
LOOPS = 8

Call = Callable[[], Any]
NOT_INSTALLED = "not installed"


class Case(NamedTuple):
    """A graph's size, the number of items that the top-k joins with themselves, and a data set of the same size."""

    num_nodes: int
    num_edges: int
    num_items: int
    data: str


CASES = {
    "ml-100k": Case(  # the graph is that of knowledge
        7_500,
        88_000,
        1_682,
        "synthetic:users=943,items=1682,mean_degree=106,entities=7500,relations=20,modalities=text:384",
    ),
    "tiktok": Case(
        16_018,
        119_082,
        6_710,
        "synthetic:users=9308,items=6710,mean_degree=9.3,relations=0,modalities=acoustic:128+visual:128",
    ),
    "m": Case(
        100_000,
        2_000_000,
        50_000,
        "synthetic:users=50000,items=50000,mean_degree=22,relations=0,modalities=text:64",
    ),
    "elec": Case(  # Amazon Electronics, 5-core, as the field uses it
        255_404,
        3_378_000,
        63_001,
        "synthetic:users=192403,items=63001,mean_degree=8.8,relations=0,modalities=text:384",
    ),
}


class Work(NamedTuple):
    """One operation on one case.

    Attributes:
      ours: the call to time. A call that returns a float has timed itself, in milliseconds.
      peers: others by name; a text instead of a call says why there is none.
      num_bytes: read and written at least, each array once; None where nobody counts.
      flops: floating-point operations of the plain method (top-k of a table with itself can do with half), or None.
    """

    ours: Call
    peers: dict[str, Call | str]
    num_bytes: int | None
    flops: int | None


def make_graph(case: Case, seed: int = 0) -> Any:
    """A random graph whose degrees follow a power law, as those of users and items do."""
    rng = np.random.default_rng(seed)
    share = np.arange(1, case.num_nodes + 1) ** -0.6
    senders, receivers = (
        rng.permutation(case.num_nodes)[rng.choice(case.num_nodes, case.num_edges, p=share / share.sum())]
        for _ in range(2)
    )
    return ops.build_graph(
        senders,
        receivers,
        rng.random(case.num_edges),
        rng.integers(0, NUM_RELATIONS, case.num_edges),
        num_senders=case.num_nodes,
        num_receivers=case.num_nodes,
    )


def compiled_call(function: Callable[..., Any], *args: Any) -> Call:
    """Compiles a function of arrays, and gives a call that waits for its result."""
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*args))


def looped_call(function: Callable[..., Any], *args: Any) -> Call:
    """Compiles `LOOPS` calls of a function in one scan, as an epoch has them: results are written to the same memory.

    A single call gets fresh memory for its result, which the system has to make first; a step of a scan does not.

    Returns:
      A call that gives the milliseconds of one turn.
    """

    def turn(carried: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        args, _ = jax.lax.optimization_barrier(carried)  # so that the turns are not merged into one
        return (args, function(*args)), None

    @jax.jit
    def loop(*args: Any) -> Any:
        empty = jax.tree.map(lambda result: jnp.zeros(result.shape, result.dtype), jax.eval_shape(function, *args))
        return jax.lax.scan(turn, (args, empty), None, length=LOOPS)[0][1]

    def timed() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(loop(*args))
        return (time.perf_counter() - begin) / LOOPS * 1e3

    return timed


def module_or_none(name: str) -> Any:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def random_table(rows: int, seed: int) -> jax.Array:
    """`[rows, COLUMNS]` normal numbers."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, COLUMNS)).astype(np.float32))


def _segment_spmm(graph: Any, x: jax.Array, weight: jax.Array) -> jax.Array:
    messages = weight[:, None] * x[graph.senders]
    return jax.ops.segment_sum(messages, graph.receivers, num_segments=x.shape[0], indices_are_sorted=True)


def spmm(graph: Any, case: Case) -> Work:
    """y = A x."""
    x, weight = random_table(case.num_nodes, 1), graph.edges.weight
    peers: dict[str, Call | str] = {
        "xla segment_sum": compiled_call(functools.partial(_segment_spmm, graph), x, weight)
    }
    arrays = [np.array(part) for part in (weight, graph.senders, graph.globals.indptr)]
    shape = (case.num_nodes, case.num_nodes)
    sparse, torch = module_or_none("scipy.sparse"), module_or_none("torch")
    if sparse is None:
        peers["scipy csr"] = NOT_INSTALLED
    else:
        matrix, dense = sparse.csr_matrix(tuple(arrays), shape=shape), np.array(x)
        peers["scipy csr"] = lambda: matrix @ dense
    if torch is None:
        peers["torch csr"] = NOT_INSTALLED
    else:
        with warnings.catch_warnings():  # it says that the format is in beta
            warnings.simplefilter("ignore")
            values, columns, starts = (torch.from_numpy(part) for part in arrays)
            torch_matrix = torch.sparse_csr_tensor(starts, columns, values, shape)
        torch_x = torch.from_numpy(np.array(x))
        peers["torch csr"] = lambda: torch_matrix @ torch_x
    ours = compiled_call(lambda x, w: ops.spmm(graph, x, w), x, weight)
    return Work(ours, peers, case.num_edges * 8 + case.num_nodes * COLUMNS * 8, 2 * case.num_edges * COLUMNS)


def spmm_in_scan(graph: Any, case: Case) -> Work:
    """y = A x, as one of many steps."""
    x, weight = random_table(case.num_nodes, 1), graph.edges.weight
    by_segments = looped_call(functools.partial(_segment_spmm, graph), x, weight)
    ours = looped_call(lambda x, w: ops.spmm(graph, x, w), x, weight)
    num_bytes = case.num_edges * 8 + case.num_nodes * COLUMNS * 8
    return Work(ours, {"xla segment_sum": by_segments}, num_bytes, 2 * case.num_edges * COLUMNS)


def _gradients(graph: Any, case: Case, *, make_call: Callable[..., Call]) -> Work:
    """y = A x, with the gradients of x and of the weights."""
    x, weight = random_table(case.num_nodes, 1), graph.edges.weight

    def gradients(product: Callable[..., Any]) -> Call:
        return make_call(jax.grad(lambda x, w: jnp.sum(product(x, w) ** 2), argnums=(0, 1)), x, weight)

    peers: dict[str, Call | str] = {"xla segment_sum": gradients(functools.partial(_segment_spmm, graph))}
    ours = gradients(lambda x, w: ops.spmm(graph, x, w))
    return Work(ours, peers, case.num_edges * 28 + case.num_nodes * COLUMNS * 24, 6 * case.num_edges * COLUMNS)


def _attention(graph: Any, case: Case, *, gradients: bool) -> Work:
    args = (
        random_table(case.num_nodes, 1) * 0.3,
        random_table(case.num_nodes, 2),
        random_table(NUM_RELATIONS, 3),
        graph.edges.weight,
    )

    def call(implementation: str | None) -> Call:
        def attend(query: jax.Array, x: jax.Array, vectors: jax.Array, weight: jax.Array) -> Any:
            return ops.edge_attention(graph, query, x, vectors, weight=weight, implementation=implementation)

        def loss(*args: jax.Array) -> jax.Array:
            out = attend(*args)
            return jnp.sum(out.values**2) + jnp.sum(jnp.where(out.logsumexp > -1e3, out.logsumexp, 0.0))

        return compiled_call(jax.grad(loss, argnums=(0, 1, 2, 3)) if gradients else attend, *args)

    passes = 4 if gradients else 1
    num_bytes = passes * (case.num_edges * 12 + case.num_nodes * COLUMNS * 12)
    return Work(call(None), {"xla autodiff": call("reference")}, num_bytes, passes * 5 * case.num_edges * COLUMNS)


def topk(graph: Any, case: Case) -> Work:
    """The best items of every item, itself left out."""
    del graph
    keys = random_table(case.num_items, 4)
    host = np.array(keys)
    peers: dict[str, Call | str] = {
        "xla map(matmul, top_k)": compiled_call(
            lambda q, x: ops.topk(q, x, TOP, exclude="self", implementation="xla"), keys, keys
        )
    }
    faiss, torch = module_or_none("faiss"), module_or_none("torch")
    if faiss is None:
        peers["faiss IndexFlatIP"] = NOT_INSTALLED
    else:
        index = faiss.IndexFlatIP(COLUMNS)
        index.add(host)
        peers["faiss IndexFlatIP"] = lambda: index.search(host, TOP + 1)
    if torch is None:
        peers["torch matmul, topk"] = NOT_INSTALLED
    else:
        torch_keys = torch.from_numpy(host)

        def blocks() -> list[Any]:
            rows = range(0, case.num_items, 1000)
            return [torch.topk(torch_keys[at : at + 1000] @ torch_keys.T, TOP + 1) for at in rows]

        peers["torch matmul, topk"] = blocks
    ours = compiled_call(lambda q, x: ops.topk(q, x, TOP, exclude="self"), keys, keys)
    return Work(ours, peers, case.num_items * (COLUMNS * 4 + TOP * 8), 2 * case.num_items**2 * COLUMNS)


GRAPH_OPS: dict[str, Callable[[Any, Case], Work]] = {
    "spmm": spmm,
    "spmm_in_scan": spmm_in_scan,
    "spmm_gradients": functools.partial(_gradients, make_call=compiled_call),
    "spmm_gradients_in_scan": functools.partial(_gradients, make_call=looped_call),
    "edge_attention": functools.partial(_attention, gradients=False),
    "edge_attention_gradients": functools.partial(_attention, gradients=True),
}
