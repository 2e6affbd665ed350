"""Trains the same data, or data that grow with the devices, on meshes of several sizes: throughput, parts, memory.

python -m experiments.scaling --meshes=data:1,data:2,data:4,data:8 --virtual_devices=8
python -m experiments.scaling --scaling=weak --users=20000 --items=10000 --interactions_per_user=20

Meshes are separated by spaces or semicolons where one has several axes. Virtual devices share the cores of this
machine: they show what is exchanged and held, and no speed-up. What a run on many accelerators would take is planned
with `python -m experiments.plan`.
"""

import dataclasses
import json
import re
import shlex
import sys
from typing import Any

import jax
from absl import flags
from matplotlib.figure import Figure

from experiments import cli, outputs
from slif_jax import ops
from slif_jax.data.synthetic import synthetic
from slif_jax.scaling import Measurement, efficiency, measure
from slif_jax.sharding import make_mesh
from slif_jax.workdir import replace_text

_MESHES = flags.DEFINE_string("meshes", "data:1 data:2 data:4 data:8", "Meshes, with spaces between them.")
_SCALING = flags.DEFINE_enum(
    "scaling", "strong", ("strong", "weak"), "strong: the same data on all meshes; weak: data and batch by devices."
)
_USERS = flags.DEFINE_integer("users", 8000, "Users; weak: of each device.", lower_bound=20)
_ITEMS = flags.DEFINE_integer("items", 4000, "Items; weak: of each device.", lower_bound=20)
_DEGREE = flags.DEFINE_float("interactions_per_user", 12.0, "Interactions of each user on average, 3 or more.")
_VIRTUAL = flags.DEFINE_integer("virtual_devices", 8, "On a CPU: devices to divide it into.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each part is timed.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "scaling.json", "File for the numbers; table and plot go beside it.")

COLUMNS = (
    ("mesh", "mesh"),
    ("interactions", "interactions"),
    ("interactions/s", "throughput"),
    ("step ms", "step_seconds"),
    ("propagate", "propagate_seconds"),
    ("loss", "loss_seconds"),
    ("update", "update_seconds"),
    ("exchanges", "exchange_seconds"),
    ("rebuild ms", "rebuild_seconds"),
    ("evaluate ms", "evaluate_seconds"),
    ("MB sent/step", "sent_bytes"),
    ("MB held", "argument_bytes"),
    ("MB more", "temporary_bytes"),
)


def main() -> None:
    """Measures each mesh, and writes numbers, table and plot."""
    if _VIRTUAL.value > 1:
        jax.config.update("jax_num_cpu_devices", _VIRTUAL.value)  # no effect on accelerators
    cli.set_up_jax()
    config = cli.config_from_flags()
    weak = _SCALING.value == "weak"
    output = outputs.target(_OUTPUT.value)
    found: list[Measurement] = []
    for text in _read_meshes(_MESHES.value):
        mesh = make_mesh(text)
        if mesh is None:
            raise ValueError(f"--meshes must name meshes such as data:4: got '{text}'. One device is data:1.")
        times = mesh.size if weak else 1
        dataset = synthetic(_USERS.value * times, _ITEMS.value * times, mean_degree=_DEGREE.value)
        settings = dataclasses.replace(config, batch_size=config.batch_size * times)
        with ops.default_implementation(flags.FLAGS.implementation):
            found.append(measure(dataset, settings, mesh, name=text, rounds=_ROUNDS.value))
        print(f"{text}: {found[-1].throughput:,.0f} interactions/s, {found[-1].step_seconds * 1e3:.1f} ms a step")
    rows = [_row(measurement, found[0], weak=weak) for measurement in found]
    report = {
        "scaling": _SCALING.value,
        "command": shlex.join(["python", "-m", "experiments.scaling", *sys.argv[1:]]),
        "devices": f"{jax.devices()[0].device_kind}, {jax.device_count()}",
        "virtual": jax.devices()[0].platform == "cpu",
        "rows": rows,
    }
    replace_text(output, json.dumps(report, indent=2) + "\n")
    replace_text(output.with_suffix(".md"), _markdown(report))
    _plot(report).savefig(output.with_suffix(".png"), dpi=120)
    print(_markdown(report))
    print(f"{output}, {output.with_suffix('.md')}, {output.with_suffix('.png')}")


def _read_meshes(text: str) -> list[str]:
    meshes = re.split(r"[;\s]+", text.strip())
    if len(meshes) == 1 and len({part.split(":")[0] for part in meshes[0].split(",")}) == 1:
        meshes = meshes[0].split(",")  # data:1,data:2: no mesh has an axis twice
    return meshes


def _row(measurement: Measurement, first: Measurement, *, weak: bool) -> dict[str, Any]:
    more = {name: getattr(measurement, name) for name in ("throughput", "loss_seconds")}
    return dataclasses.asdict(measurement) | more | {"efficiency": efficiency(first, measurement, weak=weak)}


def _cells(row: dict[str, Any]) -> list[str]:
    cells = []
    for _, name in COLUMNS:
        value = row[name]
        if name.endswith("_seconds"):
            cells.append(f"{value * 1e3:.1f}")
        elif name.endswith("_bytes"):
            cells.append(f"{value / 1e6:.1f}")
        else:
            cells.append(value if isinstance(value, str) else f"{value:,.0f}")
    return [*cells, f"{row['efficiency']:.0%}"]


def _titles() -> list[str]:
    return [*(title for title, _ in COLUMNS), "efficiency"]


def _heading(report: dict[str, Any]) -> str:
    kind = "virtual devices that share one CPU: no speed-up is to be expected" if report["virtual"] else "devices"
    return f"{report['scaling']} scaling on {report['devices']} ({kind})"


def _markdown(report: dict[str, Any]) -> str:
    lines = [f"{_heading(report)}\n", f"    {report['command']}\n"]
    lines.append("| " + " | ".join(_titles()) + " |")
    lines.append("| --- " + "| ---: " * (len(_titles()) - 1) + "|")
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in report["rows"]]
    return "\n".join(lines) + "\n"


def _plot(report: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [row["mesh"] for row in report["rows"]]
    base = [0.0] * len(names)
    for title, part in (("propagate", "propagate_seconds"), ("loss", "loss_seconds"), ("update", "update_seconds")):
        heights = [row[part] * 1e3 for row in report["rows"]]
        left.bar(names, heights, bottom=base, label=title)
        base = [a + b for a, b in zip(base, heights, strict=True)]
    left.plot(names, [row["exchange_seconds"] * 1e3 for row in report["rows"]], "ko", label="of it, exchanges")
    left.set(title="Time of a step", ylabel="ms")
    left.legend(frameon=False)
    for title, part in (("held", "argument_bytes"), ("more in a step", "temporary_bytes"), ("sent", "sent_bytes")):
        right.plot(names, [row[part] / 1e6 for row in report["rows"]], marker="o", label=title)
    right.set(title="Bytes of each device", ylabel="MB", yscale="log")
    right.legend(frameon=False)
    figure.suptitle(_heading(report), fontsize=10)
    return figure


if __name__ == "__main__":
    cli.define_config_flags()
    cli.define_run_flags()
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)
