"""Measures what this machine's CPU does per second, with a few operations of the kinds that a step is made of."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slif_jax import ops
from slif_jax.kernels import dispatch
from slif_jax.planning.accelerators import Accelerator
from slif_jax.planning.space import FLOAT

_WIDTH = 64
_ROWS = 16_384
_LOOKUPS = 8_192
_EDGES = 16 * _ROWS
_TILES = 8
_LOOPS = 10


class Probes:
    """A few operations, compiled once, and what their times say of this machine."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        table = jnp.asarray(rng.normal(size=(_ROWS, _WIDTH)).astype(np.float32))
        square = jnp.asarray(rng.normal(size=(_WIDTH, _WIDTH)).astype(np.float32))
        ids = jnp.asarray(rng.integers(0, _ROWS, _LOOKUPS, dtype=np.int32))
        # Degrees fall off as those of users and items do: some rows are read often.
        ends = np.minimum(rng.exponential(_ROWS / 8, _EDGES), _ROWS - 1).astype(np.int64)
        weights = np.ones(_EDGES, np.float32)
        graph = ops.build_graph(ends, rng.permutation(ends), weights, num_senders=_ROWS, num_receivers=_ROWS)
        self._calls = {
            "products": _looped(lambda x: x @ square, table),
            "functions": _looped(jnp.tanh, table),
            "streamed": _looped(lambda x: 0.5 * x + 1.0, jnp.tile(table, (_TILES, 1))),
            "gathered": _looped(lambda x: ops.spmm(graph, x), table),
            "scattered": _looped(lambda x: jnp.zeros_like(x).at[ids].add(x[ids]), table),
        }
        self._seconds: dict[str, list[float]] = {name: [] for name in self._calls}
        for call in self._calls.values():
            call()  # compiled here

    def time(self, clock: Callable[[], float]) -> None:
        """Runs each operation once more."""
        for name, call in self._calls.items():
            begin = clock()
            call()
            self._seconds[name].append((clock() - begin) / _LOOPS)

    def accelerator(self, memory: int) -> Accelerator:
        """What the medians of all times so far say.

        Args:
          memory: bytes that there are for a training.

        Returns:
          `Accelerator` 'cpu'. Virtual devices share the machine: its link is its memory.
        """
        median = {name: statistics.median(values) for name, values in self._seconds.items()}
        size = _ROWS * _WIDTH
        streamed = 2 * FLOAT * _TILES * size / median["streamed"]

        def rest(name: str, num_bytes: int) -> float:
            """Seconds without the bytes that are read and written in order; at least a tenth of all."""
            return max(median[name] - num_bytes / streamed, 0.1 * median[name])

        products = 2 * size * _WIDTH / median["products"]
        return Accelerator(
            name="cpu",
            memory=memory,
            products=products,
            products_bf16=products,
            streamed=streamed,
            gathered=FLOAT * _EDGES * _WIDTH / rest("gathered", 8 * _EDGES + FLOAT * size),
            scattered=2 * FLOAT * _LOOKUPS * _WIDTH / rest("scattered", FLOAT * size),
            functions=size / median["functions"],
            link=streamed,
            group=1 << 16,
            network=None,
            latency=0.0,
            native_kernels=dispatch.default_order("spmm")[0] == "native",
            measured=True,
        )


def calibrate(*, memory: int, clock: Callable[[], float] = time.perf_counter, rounds: int = 5) -> Accelerator:
    """This machine as an entry for `plan`: every rate is measured.

    Args:
      memory: bytes that there are for a training.
      clock: seconds; `time.process_time` on a process that has one core is not disturbed by other programs.
      rounds: how often each operation is timed.

    Returns:
      `Accelerator` 'cpu'.
    """
    probes = Probes()
    for _ in range(rounds):
        probes.time(clock)
    return probes.accelerator(memory)


def _looped(function: Callable[[Any], Any], x: Any) -> Callable[[], Any]:
    """Calls `function` several times in one program, as a step of an epoch does: results go to the same memory."""

    def turn(_: Any, carried: tuple[Any, Any]) -> tuple[Any, Any]:
        x, _result = jax.lax.optimization_barrier(carried)
        return x, function(x)

    compiled = jax.jit(lambda x: jax.lax.fori_loop(0, _LOOPS, turn, (x, jnp.zeros_like(x)))[1])
    return lambda: jax.block_until_ready(compiled(x))
