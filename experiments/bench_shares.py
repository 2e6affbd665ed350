"""Where the time of a training epoch goes, by the profiler: kernels by name, the rest by the part of the program.

python -m experiments.bench_shares --dataset=path/to/folder
"""

import collections
import re
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from experiments import cli
from experiments.bench_training import first_steps
from slif_jax import ops
from slif_jax.graphs import build_graphs
from slif_jax.model import make_model
from slif_jax.prepare import load_dataset
from slif_jax.train_state import init_train_state, make_optimizer
from slif_jax.train_step import close_the_loop, feed_back, make_run_epoch, training_data

# An instruction belongs to the first part whose words are in its line of the compiled program.
PARTS = {
    "spmm": ("slif_spmm", "slif_sddmm"),
    "edge attention": ("slif_attention",),
    "sampling": ("sampling", "threefry"),
    "optimizer": ("optimizer",),
    "contrast of views": ("consistency",),
    "fusion of views": ("SlifMr._fuse",),
    "projection of features": ("SlifMr._modality",),
}
REST = "the rest: gathers, sums, copies"
REBUILD = "rebuild of the correlation graph"


def part_of(line: str) -> str:
    """The part of an epoch that a line of the compiled program belongs to."""
    return next((part for part, words in PARTS.items() if any(word in line for word in words)), REST)


def main() -> None:
    """Profiles one epoch and prints the shares."""
    cli.set_up_jax()
    config = cli.config_from_flags()
    with ops.default_implementation(flags.FLAGS.implementation):
        dataset = load_dataset(config, data_dir=flags.FLAGS.data_dir)
        graphs, model = build_graphs(dataset, config), make_model(dataset, config)
        examples, scale = first_steps(training_data(dataset, config), config)
        state = init_train_state(model, graphs, config)
        run_epoch = make_run_epoch(model, make_optimizer(config)).lower(state, graphs, examples).compile()
        parts = {
            match.group(1): part_of(line)
            for line in (run_epoch.as_text() or "").splitlines()
            if (match := re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = ", line))
        }
        encode = jax.jit(model.encode)
        clock: list[float] = []
        for _ in range(2):  # the first run is not counted
            state = jax.block_until_ready(
                feed_back(state, encode(state.serving_params, graphs, state.correlation), graphs, config)
            )
            clock = [time.perf_counter()]
            state = jax.block_until_ready(close_the_loop(state, graphs, config)[0])
            clock.append(time.perf_counter())
            state = jax.block_until_ready(run_epoch(state, graphs, examples)[0])
            clock.append(time.perf_counter())
        rebuild, epoch = np.diff(clock).tolist()
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                state = jax.block_until_ready(run_epoch(state, graphs, examples)[0])
            busy = _seconds_by_part(Path(folder), parts)
    total = sum(busy.values())
    # What the profiler saw is time on all cores; it is scaled to the clock on the wall.
    rows = [(part, value / total * epoch * scale) for part, value in busy.most_common()]
    rows.append((REBUILD, rebuild))
    whole = sum(value for _, value in rows)
    table = Table("part", "seconds of an epoch", "share", title=f"{dataset.name}: {whole:.2f} s an epoch")
    for part, value in rows:
        table.add_row(part, f"{value:.3f}", f"{value / whole:.0%}")
    Console(width=100).print(table)


def _seconds_by_part(folder: Path, parts: dict[str, str]) -> collections.Counter[str]:
    (file,) = folder.rglob("*.xplane.pb")
    busy: collections.Counter[str] = collections.Counter()
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in parts and not event.name.startswith("while"):
                    busy[parts[event.name]] += event.duration_ns / 1e9
    return busy


if __name__ == "__main__":
    cli.define_config_flags()
    cli.define_run_flags()
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)
