"""What a device does in a step, a rebuild and an evaluation: operations and bytes, counted from shapes.

An entry is one operation of the program, with its way back where it has one. docs/method.md, sections 4 and 5, has the
formulas that are counted here.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from slif_jax.config import Config
from slif_jax.planning.sizes import Sizes, dense_parameters, table_parameters
from slif_jax.planning.space import (
    ATTENTION_MESSAGES,
    FLOAT,
    batch_rows,
    carried_bytes,
    compared_columns,
    edges_each,
    logits,
    rows_each,
    scored_columns,
)

Number = float | int
_EIGEN = 9  # n^3 times so many products for the eigenvectors of a symmetric n x n matrix
PARTS = ("propagate", "loss", "update", "rebuild", "evaluate", "collectives")


class Work(NamedTuple):
    """One operation. The counts are those of `Accelerator`'s rates."""

    part: str
    name: str
    products: Number = 0.0
    functions: Number = 0.0
    streamed: Number = 0.0
    gathered: Number = 0.0
    scattered: Number = 0.0

    def times(self, count: Number) -> "Work":
        """The same, done `count` times."""
        return Work(self.part, self.name, *(count * value for value in self[2:]))


class _Shapes(NamedTuple):
    """Rows and edges of one device."""

    users: int
    items: int
    entities: int
    edges: int
    triples: int
    near: int
    related: int
    views: int
    d: int


def _shapes(sizes: Sizes, config: Config, devices: int) -> _Shapes:
    items = rows_each(sizes.num_items, devices)
    return _Shapes(
        users=rows_each(sizes.num_users, devices),
        items=items,
        entities=rows_each(sizes.num_entities, devices),
        edges=edges_each(sizes.num_edges, devices),
        triples=edges_each(2 * sizes.num_triples, devices),
        near=items * config.feature_neighbors,
        related=items * config.correlation_neighbors,
        views=sizes.num_views,
        d=config.width,
    )


class _Graphs(NamedTuple):
    """How the sparse kernels work."""

    number: int
    """Bytes of a number that goes over a graph."""
    native: bool
    """See `Accelerator.native_kernels`."""

    def spmm(self, name: str, edges: Number, receivers: Number, senders: Number, columns: Number) -> Work:
        """A sparse product forward and back: each edge reads a row each way, and results are written once each way."""
        written = self.number * (receivers + senders) * columns
        messages = 0 if self.native else 2 * 2 * FLOAT * edges * columns  # written by one operation, read by the next
        gathered = 2 * self.number * edges * columns
        return Work("propagate", name, gathered=gathered, streamed=written + 20 * edges + messages)

    def attention(self, name: str, edges: Number, rows: Number, d: int) -> Work:
        """Attention forward and back: forward a row per edge; back x, query and cotangent, in both orders."""
        gathered = 6 * self.number * edges * d
        messages = 0 if self.native else 2 * ATTENTION_MESSAGES * FLOAT * edges * d
        streamed = 8 * self.number * rows * d + messages
        return Work("propagate", name, gathered=gathered, functions=3 * edges, streamed=streamed)


def _pointwise(part: str, name: str, numbers: Number, *, passes: Number, functions: Number = 0) -> Work:
    """Element by element: each pass reads or writes an array once; functions per number."""
    return Work(part, name, streamed=FLOAT * numbers * passes, functions=numbers * functions)


def step_work(sizes: Sizes, config: Config, *, devices: int = 1, native_kernels: bool = True) -> list[Work]:
    """The operations of a step on one of D devices, with their way back.

    Args:
      sizes: of the data.
      config: settings.
      devices: D.
      native_kernels: see `Accelerator`.

    Returns:
      The operations of the parts 'propagate', 'loss' and 'update'.
    """
    sizes = sizes.used(config)
    at = _shapes(sizes, config, devices)
    return [
        *_propagate(sizes, config, at, _Graphs(carried_bytes(config), native_kernels)),
        *_loss(sizes, config, at, devices),
        *_update(sizes, config, devices),
    ]


def _propagate(sizes: Sizes, config: Config, at: _Shapes, graphs: _Graphs) -> Iterator[Work]:
    d, views, nodes = at.d, at.views, at.users + at.items
    all_nodes = sizes.num_users + sizes.num_items
    if layers := config.interaction_layers:
        yield graphs.spmm("interactions", 2 * at.edges, nodes, all_nodes, d).times(layers)
        yield _pointwise("propagate", "sum of the layers", nodes * d, passes=4).times(layers + 1)
        if config.correlates("interactions"):
            yield graphs.spmm("correlation", at.related, at.items, sizes.num_items, d).times(layers)
            yield _pointwise("propagate", "items with correlation", nodes * d, passes=6).times(layers)
    for width in sizes.modalities:
        yield Work(
            "propagate",
            "projection",
            products=4 * at.items * width * d + 6 * width * d * d,
            streamed=2 * FLOAT * at.items * width,
        )
        yield _pointwise("propagate", "purified features", at.items * d, passes=10, functions=1)
        for _ in range(config.feature_layers):
            yield graphs.spmm("feature graph", at.near, at.items, sizes.num_items, d)
            if config.correlates("features"):
                yield graphs.spmm("correlation", at.related, at.items, sizes.num_items, d)
                yield _pointwise("propagate", "mix of both", at.items * d, passes=6)
    if sizes.num_triples:
        for _ in range(config.knowledge_layers):
            yield Work("propagate", "queries", products=6 * at.entities * d * d, streamed=FLOAT * 6 * at.entities * d)
            yield graphs.attention("knowledge", at.triples, at.entities, d)
            if config.correlates("knowledge"):
                yield graphs.attention("correlation", at.related, at.items, d)
                yield _pointwise("propagate", "merge of both", at.entities * d, passes=10)
    if views:
        yield graphs.spmm("users of the views", at.edges, at.users, sizes.num_items, views * d)
        yield _pointwise("propagate", "views side by side", views * d * nodes, passes=4)


def _loss(sizes: Sizes, config: Config, at: _Shapes, devices: int) -> Iterator[Work]:
    d, views, tables = at.d, at.views, at.users + at.items
    examples, fused = rows_each(config.batch_size, devices), batch_rows(sizes, config, devices)
    negatives = config.softmax_negatives if config.loss == "softmax" else examples * config.num_negatives
    # Every device looks up what it has of the whole batch; without a mesh this is the batch.
    for wanted, table in ((config.batch_size, sizes.num_users), (config.batch_size + negatives, sizes.num_items)):
        arrays = 1 if table <= wanted else views + 1
        yield Work("loss", "rows of the batch", scattered=2 * FLOAT * wanted * arrays * d)
    yield _pointwise("loss", "gradients of the views", tables * (views + 1) * d, passes=2)
    yield Work(
        "loss", "fusion", products=12 * fused * d * d * views, functions=4 * fused * d * views,
        streamed=FLOAT * fused * d * 12 * (views + 1),
    )  # fmt: skip
    scores = logits(config, devices)
    if config.loss == "softmax":
        yield Work("loss", "scores", products=6 * scores * d, streamed=FLOAT * 3 * scores)
        # Masked, joined with the positive's, reduced twice; and back. As many passes as --validate asks for.
        yield _pointwise("loss", "softmax", scores, passes=14, functions=1)
    else:
        yield Work("loss", "bpr", streamed=FLOAT * scores * d * 8, functions=2 * scores)
    if config.dropout:
        yield _pointwise("loss", "dropout", examples * d, passes=4, functions=2)
    yield _pointwise("loss", "lengths of the embeddings", tables * d, passes=3)
    if contrasted := sizes.num_contrasted(config):
        rows, pairs = min(config.consistency_batch, config.batch_size), 2 * contrasted
        yield Work(
            "loss", "consistency", products=pairs * 6 * rows * rows * d / devices,
            functions=pairs * rows * rows / devices, streamed=pairs * FLOAT * rows * rows * 8 / devices,
            scattered=4 * FLOAT * rows * d * (contrasted + 1),
        )  # fmt: skip
        yield _pointwise("loss", "gradients of the views", tables * (contrasted + 1) * d, passes=2)
    if sizes.num_triples:
        yield Work("loss", "triples", scattered=2 * FLOAT * 4 * config.knowledge_batch * d)
        yield _pointwise("loss", "gradients of the entities", at.entities * d, passes=3)


def sort_bytes(count: Number, entry_bytes: Number) -> float:
    """Bytes that sorting moves: entries are read and written in each of log2(count) / 2 rounds of merging by four."""
    return 2 * entry_bytes * count * math.log2(max(count, 2)) / 2


def num_steps(sizes: Sizes, config: Config) -> int:
    """Steps of an epoch."""
    return -(-sizes.num_edges // config.batch_size)


def _update(sizes: Sizes, config: Config, devices: int) -> Iterator[Work]:
    count = table_parameters(sizes, config) / devices + dense_parameters(sizes, config)
    # Adam reads parameter, gradient and two moments, and writes all but the gradient.
    yield _pointwise("update", "adam", count, passes=7).times(1 / config.accumulate_steps)
    if config.accumulate_steps > 1:
        yield _pointwise("update", "sum of the gradients", count, passes=3)


def rebuild_work(sizes: Sizes, config: Config, *, devices: int = 1, native_kernels: bool = True) -> list[Work]:
    """The operations of a rebuild of the correlation graph on one of D devices."""
    sizes = sizes.used(config)
    at = _shapes(sizes, config, devices)
    pairs, width = at.items * sizes.num_items, compared_columns(sizes, config)
    # A native kernel selects as it multiplies; elsewhere scores are written in blocks, and read by the selection.
    scores = 0.0 if native_kernels else 2 * FLOAT * pairs
    in_scores = Work(
        "rebuild",
        "items in scores",
        products=2 * at.items * width**2 + _EIGEN * width**3,
        streamed=2 * FLOAT * at.items * width,
    )
    return [
        Work("rebuild", "nearest items", products=2 * pairs * width, streamed=scores + FLOAT * sizes.num_items * width),
        *([in_scores] if config.correlates_scores() else []),
        Work("rebuild", "graph", streamed=sort_bytes(at.related, 8) + 40 * at.related),
    ]


def evaluate_work(sizes: Sizes, config: Config, *, devices: int = 1, native_kernels: bool = True) -> list[Work]:
    """The operations of encoding everything and ranking all items for all users, on one of D devices."""
    sizes = sizes.used(config)
    at = _shapes(sizes, config, devices)
    pairs, scored = at.users * sizes.num_items, scored_columns(sizes, config)
    scores = 0.0 if native_kernels else 2 * FLOAT * pairs
    rows = at.users + at.items
    covariance = Work(
        "evaluate", "covariance of users", products=2 * at.users * scored**2, streamed=3 * FLOAT * at.users * scored
    )
    # Forward alone is taken to be a half of forward and back together.
    graphs = _Graphs(carried_bytes(config), native_kernels)
    forward = [work.times(0.5)._replace(part="evaluate") for work in _propagate(sizes, config, at, graphs)]
    return [
        *forward,
        Work(
            "evaluate", "fusion", products=4 * rows * at.d**2 * at.views, functions=2 * rows * at.d * at.views,
            streamed=FLOAT * rows * at.d * 6 * (at.views + 1),
        ),
        Work("evaluate", "ranking", products=2 * pairs * scored, streamed=scores + FLOAT * sizes.num_items * scored),
        *([covariance] if config.correlates_scores() else []),
    ]  # fmt: skip
