"""Trains the same data, or data that grow with the devices, on meshes of several sizes: throughput, parts, memory.

python -m experiments.scaling --meshes=data:1,data:2,data:4,data:8 --virtual_devices=8
python -m experiments.scaling --scaling=weak --users=20000 --items=10000 --interactions_per_user=20

Meshes are separated by spaces or semicolons where one has several axes. Virtual devices share the cores of this
machine: they show what is exchanged and held, and no speed-up. What a run on many accelerators would take is planned
with `python -m experiments.plan`.
"""

import dataclasses
import json
import shlex
import sys

import jax
from absl import flags

from experiments import cli, outputs
from experiments.scaling_tables import markdown, plot, read_meshes, row
from slif_jax import ops
from slif_jax.data.synthetic import synthetic
from slif_jax.meshes import make_mesh
from slif_jax.scaling import Measurement, measure
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


def main() -> None:
    """Measures each mesh, and writes numbers, table and plot."""
    if _VIRTUAL.value > 1:
        jax.config.update("jax_num_cpu_devices", _VIRTUAL.value)  # no effect on accelerators
    cli.set_up_jax()
    config = cli.config_from_flags()
    weak = _SCALING.value == "weak"
    output = outputs.target(_OUTPUT.value)
    found: list[Measurement] = []
    for text in read_meshes(_MESHES.value):
        mesh = make_mesh(text)
        if mesh is None:
            raise ValueError(f"--meshes must name meshes such as data:4: got '{text}'. One device is data:1.")
        times = mesh.size if weak else 1
        dataset = synthetic(_USERS.value * times, _ITEMS.value * times, mean_degree=_DEGREE.value)
        settings = dataclasses.replace(config, batch_size=config.batch_size * times)
        with ops.default_implementation(flags.FLAGS.implementation):
            found.append(measure(dataset, settings, mesh, name=text, rounds=_ROUNDS.value))
        print(f"{text}: {found[-1].throughput:,.0f} interactions/s, {found[-1].step_seconds * 1e3:.1f} ms a step")
    rows = [row(measurement, found[0], weak=weak) for measurement in found]
    report = {
        "scaling": _SCALING.value,
        "command": shlex.join(["python", "-m", "experiments.scaling", *sys.argv[1:]]),
        "devices": f"{jax.devices()[0].device_kind}, {jax.device_count()}",
        "virtual": jax.devices()[0].platform == "cpu",
        "rows": rows,
    }
    replace_text(output, json.dumps(report, indent=2) + "\n")
    replace_text(output.with_suffix(".md"), markdown(report))
    plot(report).savefig(output.with_suffix(".png"), dpi=120)
    print(markdown(report))
    print(f"{output}, {output.with_suffix('.md')}, {output.with_suffix('.png')}")


if __name__ == "__main__":
    cli.define_config_flags()
    cli.define_run_flags()
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)
