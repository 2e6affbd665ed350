"""Times the sparse operations against their peers, interleaved in one process, and writes the table as JSON.

python -m experiments.bench --output=bench.json
python -m experiments.bench --output=bench.json --cases=small,tiktok --ops=spmm,topk
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from experiments import cli
from experiments.bench_ops import CASES, KERNEL, OPS, Call, Work, make_graph
from slif_jax.kernels import dispatch

_OUTPUT = flags.DEFINE_string("output", None, "Where to write the rows; a plot goes beside it.", required=True)
_CASES = flags.DEFINE_list("cases", list(CASES), f"Graph sizes: {', '.join(CASES)}.")
_OPS = flags.DEFINE_list("ops", list(OPS), f"Operations: {', '.join(OPS)}.")
_SECONDS = flags.DEFINE_float("seconds", 5.0, "Time for one operation on one case, at least three rounds.")


def interleave(calls: Mapping[str, Call], seconds: float) -> dict[str, list[float]]:
    """Calls each in turn, round after round, so that what else the machine does falls on all alike.

    Args:
      calls: what to time; the first call of each is not counted.
      seconds: when to stop, after three rounds at least and fifty at most.

    Returns:
      Milliseconds of every call, by name.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for done in range(50):
        if done >= 3 and time.perf_counter() - start > seconds:
            break
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - begin) * 1e3)
    return times


def machine_limits() -> dict[str, float]:
    """Bytes per second of a copy and operations per second of a matrix product in float32, through JAX."""
    copied, square = jnp.ones((1 << 25,), jnp.float32), jnp.ones((2048, 2048), jnp.float32)
    add, multiply = jax.jit(lambda x: x + 1), jax.jit(lambda x: x @ x)
    times = interleave(
        {
            "copy": lambda: jax.block_until_ready(add(copied)),
            "matmul": lambda: jax.block_until_ready(multiply(square)),
        },
        3.0,
    )
    return {
        "bytes_per_second": 8 * copied.size / min(times["copy"]) * 1e3,
        "flops_per_second": 2 * 2048**3 / min(times["matmul"]) * 1e3,
    }


def measure(op: str, case: str, work: Work, limits: Mapping[str, float]) -> list[dict[str, Any]]:
    """One row per peer of an operation on a case."""
    calls = {name: call for name, call in work.peers.items() if not isinstance(call, str)}
    times = interleave({"ours": work.ours, **calls}, _SECONDS.value)
    ours = float(np.median(times["ours"]))
    least = max(work.num_bytes / limits["bytes_per_second"], work.flops / limits["flops_per_second"]) * 1e3
    rows = []
    for peer, call in work.peers.items():
        theirs = None if isinstance(call, str) else float(np.median(times[peer]))
        rows.append(
            {
                "op": op,
                "case": case,
                "implementation": dispatch.default_order(KERNEL.get(op, op))[0],
                "ms_median": ours,
                "ms_min": min(times["ours"]),
                "peer": peer if theirs is not None else f"{peer}: {call}",
                "peer_ms_median": theirs,
                "peer_ms_min": None if theirs is None else min(times[peer]),
                "speedup": None if theirs is None else theirs / ours,
                "bytes": work.num_bytes,
                "flops": work.flops,
                "share_of_roofline": least / ours,
                "device": jax.devices()[0].device_kind,
            }
        )
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Prints the table."""
    table = Table("operation", "case", "by", "ms", "peer", "peer ms", "times faster", "of roofline")
    for row in rows:
        peer_ms, speedup = row["peer_ms_median"], row["speedup"]
        table.add_row(
            row["op"],
            row["case"],
            row["implementation"],
            f"{row['ms_median']:.2f}",
            row["peer"],
            "" if peer_ms is None else f"{peer_ms:.2f}",
            "" if speedup is None else f"{speedup:.1f}",
            f"{row['share_of_roofline']:.2f}",
        )
    Console(width=120).print(table)


def plot_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws how many times faster each row is than its peer."""
    import matplotlib.pyplot as plt

    timed = [row for row in rows if row["speedup"] is not None]
    if not timed:
        return
    figure, axes = plt.subplots(figsize=(8, 0.28 * len(timed) + 1.2), layout="constrained")
    names = [f"{row['op']}, {row['case']}: {row['peer']}" for row in timed]
    axes.barh(names, [row["speedup"] for row in timed], color="tab:blue")
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("times faster than the peer (medians, interleaved)")
    axes.invert_yaxis()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Times, writes after every case, prints and draws."""
    output = Path(_OUTPUT.value)
    for name, given, known in (("cases", _CASES.value, CASES), ("ops", _OPS.value, OPS)):
        unknown = [word for word in given if word not in known]
        if unknown:
            raise ValueError(f"--{name} has no '{unknown[0]}'. There are: {', '.join(known)}.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output.parent} is no folder. Make it first, or name another --output.")
    limits = machine_limits()
    print(f"Copy {limits['bytes_per_second'] / 1e9:.1f} GB/s, product {limits['flops_per_second'] / 1e9:.0f} GFLOP/s.")
    rows: list[dict[str, Any]] = []
    for case in _CASES.value:
        graph = make_graph(CASES[case])
        for op in _OPS.value:
            rows += measure(op, case, OPS[op](graph, CASES[case]), limits)
            partial = output.with_name(output.name + ".partial")
            partial.write_text(json.dumps({"limits": limits, "rows": rows}, indent=1) + "\n", encoding="utf-8")
            os.replace(partial, output)
    print_rows(rows)
    plot_rows(rows, output.with_suffix(".png"))
    print(f"Wrote {len(rows)} rows to {output}.")


if __name__ == "__main__":
    cli.run(main)
