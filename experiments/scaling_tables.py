"""The table and the plot of `experiments.scaling`."""

import dataclasses
import re
from typing import Any

from matplotlib.figure import Figure

from slif_jax.scaling import Measurement, efficiency

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


def read_meshes(text: str) -> list[str]:
    """The meshes that --meshes names."""
    meshes = re.split(r"[;\s]+", text.strip())
    if len(meshes) == 1 and len({part.split(":")[0] for part in meshes[0].split(",")}) == 1:
        meshes = meshes[0].split(",")  # data:1,data:2: no mesh has an axis twice
    return meshes


def row(measurement: Measurement, first: Measurement, *, weak: bool) -> dict[str, Any]:
    """A measurement as JSON types, with what follows from it."""
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


def markdown(report: dict[str, Any]) -> str:
    """The table of a report."""
    lines = [f"{_heading(report)}\n", f"    {report['command']}\n"]
    lines.append("| " + " | ".join(_titles()) + " |")
    lines.append("| --- " + "| ---: " * (len(_titles()) - 1) + "|")
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in report["rows"]]
    return "\n".join(lines) + "\n"


def plot(report: dict[str, Any]) -> Figure:
    """The parts of a step, and what a device holds and sends, by mesh."""
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
