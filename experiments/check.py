"""Reports what is wrong or odd with a data set, its sizes, and the memory that training on it needs.

python -m experiments.check --dataset=path/to/folder [--json=report.json]

Takes the flags of training, so that what is checked is what would be trained. Exit status: 0 nothing to warn of,
1 there are warnings, 2 the data cannot be used.
"""

import json
from typing import Any

from absl import flags

from experiments import cli, outputs
from slif_jax import memory
from slif_jax.data import audit, findings
from slif_jax.prepare import load_dataset
from slif_jax.workdir import replace_text

_JSON = flags.DEFINE_string("json", None, "File for the report as JSON.")


def main() -> int:
    """Prints the report.

    Returns:
      The exit status.
    """
    config = cli.config_from_flags()
    file = None if _JSON.value is None else outputs.target(_JSON.value, "json")
    with findings.collect() as notes:
        dataset = load_dataset(config, data_dir=flags.FLAGS.data_dir)
    sections, seen = audit.describe(dataset)
    noted = {finding.kind for finding in notes}
    found = [(n.level, n.kind, n.message, n.count) for n in notes]
    found += [(s.level, s.kind, s.message, s.count) for s in seen if s.level == "warning" or s.kind not in noted]
    try:
        memory.check_fits(dataset, config)
    except memory.WillNotFitError as refusal:
        found.append(("warning", "memory", str(refusal), 1))
    found.sort(key=lambda entry: entry[0] != "warning")
    report = {
        "dataset": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "split_fingerprint": dataset.split_fingerprint,
        **sections,
        "findings": [dict(zip(("level", "kind", "message", "count"), entry, strict=True)) for entry in found],
        "memory_bytes": memory.estimate(dataset, config),
        "free_bytes": memory.free_bytes(),
    }
    print(_text(report))
    if file is not None:
        replace_text(file, json.dumps(report, indent=2) + "\n")
    return int(any(level == "warning" for level, *_ in found))


def _text(report: dict[str, Any]) -> str:
    lines = [f"{report['dataset']}: data {report['data_fingerprint'][:16]}, split {report['split_fingerprint'][:16]}"]
    lines += _block("sizes", report["sizes"])
    degrees = report["degrees"].items()
    lines += _block("degrees", {name: ", ".join(f"{k} {v:,}" for k, v in counts.items()) for name, counts in degrees})
    for name, entries in report["splits"].items():
        lines += _block(name, entries)
    for name, entries in report["features"].items():
        lines += _block(f"features {name}", entries)
    if report["knowledge_graph"]:
        lines += _block("knowledge graph", report["knowledge_graph"])
    parts = report["memory_bytes"]
    needed = {name: round(value / 2**20, 1) for name, value in parts.items()}
    lines += _block("memory that training needs, estimated, MiB", needed | {"there is": report["free_bytes"] / 2**20})
    warnings = [entry for entry in report["findings"] if entry["level"] == "warning"]
    remarks = [entry for entry in report["findings"] if entry["level"] != "warning"]
    for title, entries in (("warnings", warnings), ("remarks", remarks)):
        if entries:
            lines.append(f"\n{title}")
            lines += [f"  {entry['message']}" for entry in entries]
    verdict = f"{len(warnings)} warnings" if len(warnings) != 1 else "1 warning"
    lines.append(f"\n{report['dataset']} can be used: {verdict}, {len(remarks)} remarks.")
    return "\n".join(lines)


def _block(title: str, entries: dict[str, Any]) -> list[str]:
    width = max(len(name) for name in entries)
    return [f"\n{title}", *(f"  {name:<{width}}  {_number(value)}" for name, value in entries.items())]


def _number(value: Any) -> str:
    if isinstance(value, list):
        return " / ".join(_number(entry) for entry in value)
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    cli.define_config_flags()
    cli.define_run_flags()
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)
