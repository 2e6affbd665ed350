"""Times kernels, epochs and evaluation against their peers, interleaved in one process, and writes the table as JSON.

python -m experiments.bench --output=bench.json
python -m experiments.bench --output=bench.json --cases=ml-100k,tiktok --ops=spmm,topk
python -m experiments.bench --output=bench.json --cases=elec --ops=rebuild,evaluate --nopeers  # memory of ours alone
"""

import json
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

from experiments import bench_training as training
from experiments import cli, outputs
from experiments.bench_ops import CASES, GRAPH_OPS, Call, Case, Work, looped_call, make_graph, topk
from slif_jax.kernels import dispatch
from slif_jax.workdir import peak_memory_bytes, replace_text

OPS = {
    **GRAPH_OPS,
    "topk": topk,
    "rebuild": training.rebuild,
    "epoch": training.epoch,
    "evaluate": training.evaluate,
}
# The operation that decides which implementation a row is about.
KERNEL = {
    "spmm_in_scan": "spmm",
    "spmm_gradients": "spmm",
    "spmm_gradients_in_scan": "spmm",
    "edge_attention_gradients": "edge_attention",
    "rebuild": "topk",
    "epoch": "spmm",
    "evaluate": "topk",
}

_OUTPUT = flags.DEFINE_string("output", None, "Where to write the rows; a plot goes beside it.", required=True)
_CASES = flags.DEFINE_list("cases", list(CASES), f"Graph sizes: {', '.join(CASES)}.")
_OPS = flags.DEFINE_list("ops", list(OPS), f"Operations: {', '.join(OPS)}.")
_DATASET = flags.DEFINE_string(
    "dataset", None, "Rebuild, epoch and evaluation on this data set, not on synthetic ones of the cases' sizes."
)
_PEERS = flags.DEFINE_boolean("peers", True, "Time the peers too; without them the peak memory is ours alone.")
_SECONDS = flags.DEFINE_float("seconds", 5.0, "Time for one operation on one case, at least three rounds.")


def interleave(calls: Mapping[str, Call], seconds: float) -> dict[str, list[float]]:
    """Calls each in turn, round after round, so that what else the machine does falls on all alike.

    Args:
      calls: what to time; the first call of each is not counted. A call that returns a float has timed itself, in
        milliseconds.
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
            own = call()
            times[name].append(own if isinstance(own, float) else (time.perf_counter() - begin) * 1e3)
    return times


def machine_limits() -> dict[str, float]:
    """Bytes per second of a copy and operations per second of a matrix product in float32, through JAX."""
    copied, square = jnp.ones((1 << 25,), jnp.float32), jnp.ones((2048, 2048), jnp.float32)
    multiply = jax.jit(lambda x: x @ x)
    times = interleave(
        {
            "copy": looped_call(lambda x: x + 1, copied),  # to the same memory every time
            "matmul": lambda: jax.block_until_ready(multiply(square)),
        },
        3.0,
    )
    return {
        "bytes_per_second": 8 * copied.size / min(times["copy"]) * 1e3,
        "flops_per_second": 2 * 2048**3 / min(times["matmul"]) * 1e3,
    }


def measure(op: str, case: str, work: Work, limits: Mapping[str, float]) -> list[dict[str, Any]]:
    """One row per peer of an operation on a case; one row in all without peers."""
    peers = work.peers if _PEERS.value else {"": "left out"}
    calls = {name: call for name, call in peers.items() if not isinstance(call, str)}
    times = interleave({"ours": work.ours, **calls}, _SECONDS.value)
    ours = float(np.median(times["ours"]))
    least = None
    if work.num_bytes is not None and work.flops is not None:
        least = max(work.num_bytes / limits["bytes_per_second"], work.flops / limits["flops_per_second"]) * 1e3
    rows = []
    for peer, call in peers.items():
        theirs = None if isinstance(call, str) else float(np.median(times[peer]))
        rows.append(
            {
                "op": op,
                "case": case,
                "implementation": dispatch.default_order(KERNEL.get(op, op))[0],
                "ms_median": ours,
                "ms_min": min(times["ours"]),
                "peer": peer if theirs is not None else f"{peer}: {call}".removeprefix(": "),
                "peer_ms_median": theirs,
                "peer_ms_min": None if theirs is None else min(times[peer]),
                "speedup": None if theirs is None else theirs / ours,
                "bytes": work.num_bytes,
                "flops": work.flops,
                "share_of_roofline": None if least is None else least / ours,
                "peak_memory_bytes": peak_memory_bytes(),
                "device": jax.devices()[0].device_kind,
            }
        )
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Prints the table."""
    table = Table("operation", "case", "by", "ms", "peer", "peer ms", "times faster", "of roofline")
    for row in rows:
        peer_ms, speedup, share = row["peer_ms_median"], row["speedup"], row["share_of_roofline"]
        table.add_row(
            row["op"],
            row["case"],
            row["implementation"],
            f"{row['ms_median']:.2f}",
            row["peer"],
            "" if peer_ms is None else f"{peer_ms:.2f}",
            "" if speedup is None else f"{speedup:.1f}",
            "" if share is None else f"{share:.2f}",
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


def _sized(case: Case) -> Case:
    """The case, or the sizes of --dataset."""
    if _DATASET.value is None:
        return case
    return case._replace(data=_DATASET.value, num_items=training.load_once(_DATASET.value).num_items)


def main() -> None:
    """Times, writes after every case, prints and draws."""
    output = outputs.target(_OUTPUT.value)
    for name, given, known in (("cases", _CASES.value, CASES), ("ops", _OPS.value, OPS)):
        unknown = [word for word in given if word not in known]
        if unknown:
            raise ValueError(f"--{name} has no '{unknown[0]}'. There are: {', '.join(known)}.")
    limits = machine_limits()
    print(f"Copy {limits['bytes_per_second'] / 1e9:.1f} GB/s, product {limits['flops_per_second'] / 1e9:.0f} GFLOP/s.")
    rows: list[dict[str, Any]] = []
    jobs = [(case, op) for case in _CASES.value for op in _OPS.value]
    graph, graph_case = None, None
    for done, (case, op) in enumerate(jobs):
        print(f"{done + 1} of {len(jobs)}: {op}, {case}", flush=True)
        if op in GRAPH_OPS and graph_case != case:
            graph, graph_case = make_graph(CASES[case]), case
        sized = CASES[case] if op in GRAPH_OPS else _sized(CASES[case])
        rows += measure(op, case, OPS[op](graph, sized), limits)
        replace_text(output, json.dumps({"limits": limits, "rows": rows}, indent=1) + "\n")
    print_rows(rows)
    print(f"Peak memory of the process: {peak_memory_bytes() / 2**30:.2f} GiB.")
    plot_rows(rows, output.with_suffix(".png"))
    print(f"Wrote {len(rows)} rows to {output}.")


if __name__ == "__main__":
    cli.run(main)
