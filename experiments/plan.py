"""Says whether a training would fit on a mesh and how long it would take, before anything is launched.

python -m experiments.plan --mesh=data:256 --accelerator=v5e --users=50000000 --items=10000000 --edges=1000000000
python -m experiments.plan --calibrate     # what the CPU of this machine does per second
python -m experiments.plan --validate      # the model against trainings of a few steps on this machine

Takes the flags of training, but for those that concern the data: a plan knows their sizes only, and --modalities are
the widths of their features. Figures of accelerators are a model's, never measured: docs/plans/README.md.
"""

import dataclasses
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import cli, outputs
from slif_jax import data, memory
from slif_jax.config import DATA_FIELDS, Config
from slif_jax.graphs import build_graphs
from slif_jax.meshes import parse_mesh
from slif_jax.model import make_model
from slif_jax.planning import ACCELERATORS, Accelerator, Plan, Sizes, accelerator, plan, sizes_of
from slif_jax.planning.calibration import Probes, calibrate
from slif_jax.planning.remedies import gib
from slif_jax.train_state import init_train_state, make_optimizer
from slif_jax.train_step import make_run_epoch, training_data
from slif_jax.workdir import replace_text

_MESH = flags.DEFINE_string("mesh", "none", "Devices that share the work, such as data:256; none: one device.")
_ACCELERATOR = flags.DEFINE_enum("accelerator", "v5e", (*ACCELERATORS, "cpu"), "The device; cpu: this one, measured.")
_USERS = flags.DEFINE_integer("users", 0, "Users.", lower_bound=0)
_ITEMS = flags.DEFINE_integer("items", 0, "Items.", lower_bound=0)
_EDGES = flags.DEFINE_integer("edges", 0, "Training interactions.", lower_bound=0)
_ENTITIES = flags.DEFINE_integer("entities", 0, "Nodes of the knowledge graph, items included.", lower_bound=0)
_TRIPLES = flags.DEFINE_integer("triples", 0, "Triples of the knowledge graph.", lower_bound=0)
_RELATIONS = flags.DEFINE_integer("relations", 20, "Relations of the knowledge graph.", lower_bound=1)
_MODALITIES = flags.DEFINE_list("modalities", [], "Widths of the raw features, such as 4096,384.")
_EFFICIENCY = flags.DEFINE_float("efficiency", 1.0, "Share of the peak rate of memory that is reached, above 0 to 1.")
_USABLE = flags.DEFINE_float(
    "usable", None, "Share of a device's memory that the program gets; default: on GPUs what JAX takes, 0.75."
)
_OUTPUT = flags.DEFINE_string("output", None, "File for the plan: .json, or else Markdown.")
_CALIBRATE = flags.DEFINE_boolean("calibrate", False, "Measure this machine, and stop.")
_VALIDATE = flags.DEFINE_boolean("validate", False, "Compare the model with trainings on this machine, and stop.")
_CLOCK = flags.DEFINE_enum(
    "clock", "wall", ("wall", "cpu"), "cpu: seconds of this process; give it one core where others work on the machine."
)

CASES = (
    "synthetic:users=3000,items=1500,mean_degree=10,relations=0,modalities=none",
    "synthetic:users=4000,items=2000,mean_degree=12,relations=0,modalities=visual:128+text:128",
    "synthetic:users=2000,items=1500,mean_degree=20,entities=6000,modalities=none",
    "synthetic:users=6000,items=4000,mean_degree=10,entities=9000,modalities=visual:64+text:384",
)
"""What --validate trains on: the collaborative view alone, with features, with a knowledge graph, with both."""

_NAMES = [field.name for field in dataclasses.fields(Config) if field.name not in (*DATA_FIELDS, "modalities")]


def main() -> int:
    """Prints the plan.

    Returns:
      The exit status: 0, or 1 where the training does not fit, or something else stands in the way.
    """
    cli.set_up_jax()
    config = cli.config_from_flags(names=_NAMES)
    if _CALIBRATE.value:
        print(_rates_text(calibrate(memory=memory.free_bytes(), clock=_clock())))
        return 0
    if _VALIDATE.value:
        device, rows = validate(config, _clock())
        print(_validation_text(rows) + "\n\n" + _rates_text(device))
        return 0
    if not (_USERS.value and _ITEMS.value and _EDGES.value):
        raise ValueError("--users, --items and --edges are needed: the sizes of the data to plan for.")
    output = None if _OUTPUT.value is None else outputs.target(_OUTPUT.value)
    made = plan(_sizes(), config, parse_mesh(_MESH.value), _device())
    text = plan_text(made, config)
    print(text)
    if output is not None:
        if output.suffix == ".json":
            text = json.dumps(made.to_dict() | {"config": config.to_dict()}, indent=2)
        replace_text(output, text + "\n")
    return 0 if made.fits else 1


def _clock() -> Callable[[], float]:
    return time.perf_counter if _CLOCK.value == "wall" else time.process_time


def _sizes() -> Sizes:
    widths = [width for width in _MODALITIES.value if width != "none"]
    if not all(width.isdecimal() for width in widths):
        raise ValueError(f"--modalities must be widths of features here, such as 4096,384: got {','.join(widths)}.")
    return Sizes(
        num_users=_USERS.value,
        num_items=_ITEMS.value,
        num_edges=_EDGES.value,
        num_entities=_ENTITIES.value,
        num_relations=_RELATIONS.value,
        num_triples=_TRIPLES.value,
        modalities=tuple(map(int, widths)),
    )


def _device() -> Accelerator:
    if _ACCELERATOR.value == "cpu":
        return calibrate(memory=memory.free_bytes(), clock=_clock())
    device = accelerator(_ACCELERATOR.value).slowed(_EFFICIENCY.value)
    if _USABLE.value is None:
        return device
    if not 0.0 < _USABLE.value <= 1.0:
        raise ValueError(f"--usable must be above 0 and at most 1: got {_USABLE.value}.")
    return dataclasses.replace(device, usable=_USABLE.value)


def plan_text(made: Plan, config: Config) -> str:
    """A plan as Markdown.

    Args:
      made: from `plan`.
      config: what it was made with.

    Returns:
      The text.
    """
    sizes, device = made.sizes, made.accelerator
    knowledge = f", {sizes.num_triples:,} triples over {sizes.num_entities:,} entities" if sizes.num_triples else ""
    features = f", features of {' and '.join(map(str, sizes.modalities))} numbers" if sizes.modalities else ""
    kind = (
        "rates measured on this machine" if device.measured else "rates are peaks of data sheets: seconds are at best"
    )
    lines = [
        f"# {sizes.num_edges:,} interactions on {made.devices} x {device.name}",
        "",
        f"    python -m experiments.plan {shlex.join(sys.argv[1:])}",
        "",
        f"Figures of a model, not of a run ({kind}).",
        "",
        f"{sizes.num_users:,} users, {sizes.num_items:,} items{knowledge}{features}; width {config.width}, batches of "
        f"{config.batch_size:,}.",
        "",
        _verdict(made),
        "",
        "## Memory per device",
        "",
        *_table(
            ("purpose", "bytes"),
            [(name, gib(value)) for name, value in made.num_bytes.items() if value]
            + [("**total**", f"**{gib(made.total_bytes)}**"), ("there are", gib(made.available_bytes))],
        ),
    ]
    if made.host_bytes:
        whole = gib(made.host_bytes)
        lines += ["", f"Every process, in its host's memory, before it deals it out: {whole}, and more to sort."]
    if made.obstacles:
        lines += ["", "Beside memory:", "", *(f"- {obstacle}" for obstacle in made.obstacles)]
    if made.remedies:
        lines += ["", "What would fit into memory, one of:", "", *(f"- {text}" for text in made.remedies)]
    lines += ["", "## Time", "", *_times(made), ""]
    lines += ["Exchanged in a step, bytes received per device:", "", *_exchanges(made)]
    return "\n".join(lines)


def _verdict(made: Plan) -> str:
    fits = "**It fits" if made.total_bytes <= made.available_bytes else "**It does not fit"
    fits += " into memory, and there are other obstacles" if made.obstacles else ""
    largest = max(made.num_bytes, key=lambda name: made.num_bytes[name])
    return (
        f"{fits}**: {gib(made.total_bytes)} of {gib(made.available_bytes)} per device, most of it {largest}. "
        f"A step takes {_seconds(made.step_seconds)}, most of it {_longest(made)}."
    )


def _longest(made: Plan) -> str:
    of_step = {name: made.parts[name] for name in ("propagate", "loss", "update", "collectives")}
    name = max(of_step, key=lambda part: of_step[part].seconds)
    return name if name == "collectives" else f"{name} ({of_step[name].limit})"


def _times(made: Plan) -> list[str]:
    rows = []
    for name, part in made.parts.items():
        seconds = {"rebuild": made.rebuild_seconds, "evaluate": made.evaluate_seconds}.get(name, part.seconds)
        per = "rebuild" if name == "rebuild" else "evaluation" if name == "evaluate" else "step"
        rows.append(
            (name, per, f"{part.products:.2e}", gib(part.num_bytes), gib(part.exchanged), _seconds(seconds), part.limit)
        )
    head = ("part", "per", "operations", "memory", "exchanged", "seconds", "limited by")
    return [
        *_table(head, rows),
        "",
        f"{made.num_steps:,} steps of {_seconds(made.step_seconds)}; with rebuild and evaluation an epoch takes "
        f"{_seconds(made.epoch_seconds)}: {made.interactions_per_second:,.0f} interactions/s.",
    ]


def _exchanges(made: Plan) -> list[str]:
    if not made.exchanges:
        return ["None: there is one device."]
    found = sorted(made.exchanges, key=lambda exchange: -exchange.num_bytes * exchange.times)
    rows = [(e.name, f"{e.times:.0f}", gib(e.num_bytes), gib(e.num_bytes * e.times)) for e in found]
    return _table(("for", "collectives", "each", "together"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *rows)]


def _seconds(value: float) -> str:
    if value >= 7200:
        return f"{value / 3600:,.1f} h"
    return f"{value:,.1f} s" if value >= 1 else f"{value * 1e3:,.1f} ms"


def validate(config: Config, clock: Callable[[], float], rounds: int = 3) -> tuple[Accelerator, list[dict[str, Any]]]:
    """The model against epochs of `CASES` on this machine, timed in turn.

    Args:
      config: settings; the data are those of the cases.
      clock: seconds.
      rounds: epochs of each case; the first, which warms up, is not counted.

    Returns:
      The rates of this machine, and a row per case: predicted and measured seconds of an epoch's steps.
    """
    calls, sizes = {}, {}
    for case in CASES:
        dataset = data.load(case)
        sizes[case] = sizes_of(dataset, config)
        calls[case] = _epochs(dataset, config, clock)
    measured: dict[str, list[float]] = {case: [] for case in CASES}
    probes = Probes()
    for turn in range(rounds + 1):
        probes.time(clock)
        for case, call in calls.items():
            seconds = call()
            if turn:
                measured[case].append(seconds)
    device, rows = probes.accelerator(memory.free_bytes()), []
    for case in CASES:
        made = plan(sizes[case], config, {}, device)
        predicted, found = made.num_steps * made.step_seconds, statistics.median(measured[case])
        shares = {name: made.parts[name].seconds / made.step_seconds for name in ("propagate", "loss", "update")}
        spread = [min(measured[case]), max(measured[case])]
        rows.append(
            {"case": case, "predicted": predicted, "measured": found, "range": spread, "ratio": predicted / found}
            | shares
        )
    return device, rows


def _epochs(dataset: data.Dataset, config: Config, clock: Callable[[], float]) -> Callable[[], float]:
    graphs, model = build_graphs(dataset, config), make_model(dataset, config)
    examples = training_data(dataset, config)
    state = init_train_state(model, graphs, config)
    run_epoch = make_run_epoch(model, make_optimizer(config)).lower(state, graphs, examples).compile()

    def timed() -> float:
        nonlocal state
        begin = clock()
        state = jax.block_until_ready(run_epoch(state, graphs, examples)[0])
        return clock() - begin

    return timed


def _rates_text(device: Accelerator) -> str:
    names = ("products", "functions", "streamed", "gathered", "scattered")
    return "Per second: " + ", ".join(f"{name} {getattr(device, name):.3g}" for name in names) + "."


def _validation_text(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["case"].removeprefix("synthetic:"),
            f"{row['predicted']:.3f}",
            f"{row['measured']:.3f}",
            f"{row['range'][0]:.3f} to {row['range'][1]:.3f}",
            f"{row['ratio']:.2f}",
            " / ".join(f"{row[part]:.0%}" for part in ("propagate", "loss", "update")),
        )
        for row in rows
    ]
    off = float(np.max(np.abs([row["ratio"] - 1.0 for row in rows])))
    table = _table(
        ("case", "predicted, s per epoch", "measured", "range", "predicted / measured", "propagate / loss / update"),
        cells,
    )
    return "\n".join([*table, "", f"At most {off:.0%} off."])


if __name__ == "__main__":
    cli.define_config_flags(names=_NAMES)
    cli.define_run_flags()
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)
