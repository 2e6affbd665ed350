"""What `experiments.bench` times of a training: the rebuild, an epoch with its rebuild, and full ranking."""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench_ops import COLUMNS, Call, Case, Work, compiled_call, module_or_none, random_table
from slif_jax import correlation, data, ops
from slif_jax.config import Config
from slif_jax.data import Dataset
from slif_jax.evaluate import evaluate_vectors, ranking_task
from slif_jax.graphs import build_graphs
from slif_jax.model import Vectors, make_model
from slif_jax.sampling import num_steps
from slif_jax.train_state import init_train_state, make_optimizer
from slif_jax.train_step import TrainingData, close_the_loop, make_run_epoch, training_data

# An epoch of more steps than this is timed over its first few, and scaled.
MOST_STEPS = 48
FIRST_STEPS = 8
# The reference ranks with one dense matrix of scores; beyond this many items it would need gigabytes.
MOST_ITEMS_DENSE = 10_000


@functools.lru_cache(maxsize=1)
def load_once(spec: str) -> Dataset:
    """The data set, kept until another one is asked for."""
    return data.load(spec)


def rebuild(graph: Any, case: Case) -> Work:
    """The correlation graph of the items' vectors: cosines, top-k, normalised weights."""
    del graph
    vectors = random_table(case.num_items, 4)

    def call(implementation: str | None) -> Call:
        return _inside(implementation, compiled_call(lambda x: correlation.rebuild(x, num_neighbors=10), vectors))

    num_bytes = case.num_items * (COLUMNS * 4 + 10 * 20)
    return Work(call(None), {"xla": call("xla")}, num_bytes, 2 * case.num_items**2 * COLUMNS)


def epoch(graph: Any, case: Case) -> Work:
    """The rebuild and every step of an epoch, at the default settings."""
    del graph
    dataset = load_once(case.data)
    config = Config(dataset=case.data)
    graphs, model = build_graphs(dataset, config), make_model(dataset, config)
    examples, scale = first_steps(training_data(dataset, config), config)
    run_epoch = make_run_epoch(model, make_optimizer(config))

    def call(implementation: str | None) -> Call:
        state = init_train_state(model, graphs, config)
        state = state.replace(item_vectors=random_table(model.num_items, 5))
        state = state.replace(score_covariance=jnp.eye(config.width))

        def timed() -> float:
            nonlocal state
            begin = time.perf_counter()
            state = jax.block_until_ready(close_the_loop(state, graphs, config)[0])
            rebuilt = time.perf_counter()
            state = jax.block_until_ready(run_epoch(state, graphs, examples)[0])
            return (rebuilt - begin + scale * (time.perf_counter() - rebuilt)) * 1e3

        return _inside(implementation, timed)

    peers: dict[str, Call | str] = {"xla slots": call("xla")}
    if case.num_items <= MOST_ITEMS_DENSE:
        peers["xla segment_sum"] = call("reference")
    return Work(call(None), peers, None, None)


def first_steps(examples: TrainingData, config: Config) -> tuple[TrainingData, float]:
    """The examples of the first steps of an epoch, and how many times longer the whole epoch is."""
    steps = num_steps(examples.num_examples, config.batch_size)
    if steps <= MOST_STEPS:
        return examples, 1.0
    return examples.replace(num_examples=FIRST_STEPS * config.batch_size), steps / FIRST_STEPS


def evaluate(graph: Any, case: Case) -> Work:
    """All items ranked for every user with test items, and every metric."""
    del graph
    dataset = load_once(case.data)
    config = dataclasses.replace(Config(dataset=case.data), topk=(10, 20))
    task = ranking_task(dataset, "test", config)
    vectors = Vectors(random_table(dataset.num_users, 6), random_table(dataset.num_items, 7))

    def call(implementation: str | None) -> Call:
        return _inside(implementation, lambda: evaluate_vectors(vectors, task))

    peers: dict[str, Call | str] = {"xla": call("xla")}
    torch = module_or_none("torch")
    peers["torch, ranking alone"] = "not installed" if torch is None else _torch_ranking(torch, vectors, dataset, task)
    num_bytes = 4 * COLUMNS * (len(task.users) + dataset.num_items)
    return Work(call(None), peers, num_bytes, 2 * len(task.users) * dataset.num_items * COLUMNS)


def _torch_ranking(torch: Any, vectors: Vectors, dataset: Dataset, task: Any) -> Call:
    """Scores of a block of users, seen items masked, the best 20: what the peers of this field do."""
    users, items = (torch.from_numpy(np.array(table)) for table in vectors)
    indptr, seen = np.asarray(task.arrays.seen_indptr), np.asarray(task.arrays.seen)
    block = 1024

    def rank() -> list[Any]:
        ranked = []
        for start in range(0, len(task.users), block):
            wanted = task.users[start : start + block]
            bounds = indptr[start : start + len(wanted) + 1]
            rows = np.repeat(np.arange(len(wanted)), np.diff(bounds))
            scores = users[torch.from_numpy(wanted.astype(np.int64))] @ items.T
            scores[torch.from_numpy(rows), torch.from_numpy(seen[bounds[0] : bounds[-1]].astype(np.int64))] = -1e10
            ranked.append(torch.topk(scores, min(20, dataset.num_items)).indices)
        return ranked

    return rank


def _inside(implementation: str | None, call: Call) -> Call:
    """The same call, always with this choice of kernels."""

    def chosen() -> Any:
        with ops.default_implementation(implementation):
            return call()

    return chosen
