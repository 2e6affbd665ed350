"""Measures a finished run, or a scorer without training, on test under one or all evaluation protocols.

python -m experiments.evaluate --workdir=runs/ml-100k --protocol=all
python -m experiments.evaluate --baseline=item_cosine --dataset=ml-100k --protocol=all
python -m experiments.evaluate --workdir=runs/ml-100k --protocol=kgat --rules=mask=train+valid,list_length=50
"""

import dataclasses
import json
import sys
from typing import Any

import numpy as np
from absl import flags

from experiments import cli, outputs
from slif_jax import lists, ops
from slif_jax.baselines import BASELINES
from slif_jax.config import DATA_FIELDS, Config
from slif_jax.data import Dataset
from slif_jax.evaluate import evaluate_vectors, ranking_task
from slif_jax.groups import cold_items_task, test_results
from slif_jax.model import Vectors
from slif_jax.prepare import load_dataset
from slif_jax.protocols import PROTOCOLS, SELECTION_RULES, Protocol, with_rules
from slif_jax.recommend import load_trained
from slif_jax.workdir import Workdir, WorkdirError, replace_text

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a finished run; it gets evaluation-NAME.json for each preset."
)
_BASELINE = flags.DEFINE_enum("baseline", None, list(BASELINES), "Instead of a run: a scorer without training.")
_PROTOCOL = flags.DEFINE_list("protocol", ["all"], f"'all', or names: {', '.join(PROTOCOLS)}.")
_RULES = flags.DEFINE_list(
    "rules", [], "Rules to change, as name=value,...: any field of Protocol (docs/protocols.md), such as ideal=found."
)
_CANDIDATES = flags.DEFINE_string(
    "candidates", None, "Text file with one original item id per line: only these are ranked."
)
_METRICS = flags.DEFINE_list("metrics", ["recall@20", "ndcg@20", "mrr@10", "hit@20"], "Columns of the table.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for all results, with groups and intervals.")
_DATA_FLAGS = (*DATA_FIELDS, "topk")


def main() -> None:
    """Prints one line per protocol."""
    cli.set_up_jax()
    protocols = _protocols()
    output = None if _OUTPUT.value is None else outputs.target(_OUTPUT.value)
    workdir, baseline = _WORKDIR.value, _BASELINE.value
    if (workdir is None) == (baseline is None):
        raise ValueError("Name either a finished run with --workdir, or a --baseline with --dataset.")
    results: list[dict[str, Any]] = []
    with ops.default_implementation(flags.FLAGS.implementation):
        if workdir is not None:
            results = _measure_run(Workdir(workdir), protocols)
        if baseline is not None:
            config = cli.config_from_flags(names=_DATA_FLAGS)
            dataset = load_dataset(config, data_dir=flags.FLAGS.data_dir)
            about = {"scorer": baseline, "config": config.to_dict()}
            vectors = BASELINES[baseline](dataset)
            results = [_measure(vectors, dataset, config, protocol, about) for protocol in protocols]
    if output is not None:
        replace_text(output, json.dumps(results, indent=2) + "\n")
    print(_table(results))


def _protocols() -> list[Protocol]:
    names = list(PROTOCOLS) if _PROTOCOL.value == ["all"] else _PROTOCOL.value
    if not names:
        raise ValueError(f"--protocol is empty: name 'all', or some of {', '.join(PROTOCOLS)}.")
    changes: dict[str, str] = {}
    for rule in _RULES.value:
        field, _, value = rule.partition("=")
        changes[field.strip()] = value.strip()
    for rule in SELECTION_RULES:
        if rule in changes:
            raise ValueError(f"--rules: '{rule}' is a rule of training and changes nothing here. Leave it out.")
    if _CANDIDATES.value is not None:
        changes["candidates"] = "listed"
    return [with_rules(name, changes) for name in names]


def _measure_run(folder: Workdir, protocols: list[Protocol]) -> list[dict[str, Any]]:
    """Measures a run; a protocol that was measured before on the same epoch is read from its file."""
    result = folder.read_json("result.json")
    if result is None:
        raise WorkdirError(f"{folder.path} holds no result.json of a finished run. Train first: experiments.train.")
    if not _has(result, "best_epoch", "protocol", "data_fingerprint"):
        raise WorkdirError(f"{folder.path / 'result.json'} is damaged: train this run again, with --resume=never.")
    for name in _DATA_FLAGS:
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} has no effect on a run: {folder.path} has its own settings. Leave it out.")
    trained = None
    results = []
    for protocol in protocols:
        file = f"evaluation-{protocol.name}.json"
        about = {"scorer": f"epoch {result['best_epoch']}", "chosen_by": result["protocol"]}
        expected = {
            **about,
            "rules": dataclasses.asdict(protocol),
            "data_fingerprint": result["data_fingerprint"],
        }
        is_preset = not protocol.changes()
        found = folder.read_json(file) if is_preset else None
        known = _has(found, *expected, "dataset", "protocol", "split_fingerprint", "test", "test_users")
        known = known and _has_cold_items(found)
        if found is not None and known and all(found[key] == value for key, value in expected.items()):
            results.append(found)
            continue
        if trained is None:
            trained = load_trained(folder.path, data_dir=flags.FLAGS.data_dir)
        found = _measure(trained.encoded.ranked, trained.dataset, trained.config, protocol, about)
        if is_preset:
            try:
                folder.write_json(file, found)
            except OSError as error:  # a run that may only be read
                print(f"The numbers below are not kept in the run: {error}", file=sys.stderr)
        results.append(found)
    return results


def _has(found: Any, *names: str) -> bool:
    """Whether a file held an object with these fields."""
    return isinstance(found, dict) and set(names) <= found.keys()


def _has_cold_items(found: Any) -> bool:
    """Whether cold items were ranked among themselves, as earlier versions did not."""
    return _has(found.get("test_groups"), "items") and _has(found["test_groups"]["items"], "among_cold")


def _measure(
    vectors: Vectors, dataset: Dataset, config: Config, protocol: Protocol, about: dict[str, Any]
) -> dict[str, Any]:
    listed = _listed_items(dataset) if protocol.candidates == "listed" else None
    task = ranking_task(dataset, "test", config, protocol=protocol, candidates=listed)
    cold_task = cold_items_task(dataset, "test", config, protocol=protocol, candidates=listed)
    among_cold = None if cold_task is None else evaluate_vectors(vectors, cold_task)
    return {
        "dataset": dataset.name,
        "protocol": protocol.label(),
        **about,
        "rules": dataclasses.asdict(protocol),
        "data_fingerprint": dataset.fingerprint,
        "split_fingerprint": dataset.split_fingerprint,
        **test_results(evaluate_vectors(vectors, task), config.activity_groups, among_cold),
    }


def _listed_items(dataset: Dataset) -> np.ndarray:
    names = outputs.read_names(_CANDIDATES.name)
    if names is None:
        raise ValueError("candidates=listed needs --candidates=FILE with one original item id per line.")
    return lists.positions(dataset.item_ids, names, what="item", place=dataset.name)


def _digits(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table, and below it what they were measured on."""
    known = list(results[0]["test"])
    for name in _METRICS.value:
        if name not in known:
            raise ValueError(f"--metrics: '{name}' was not measured; there are {', '.join(known)}.")
    heads = ["protocol", "users", *_METRICS.value]
    rows = [
        [r["protocol"], f"{r['test_users']:,}", *(_digits(r["test"][name]) for name in _METRICS.value)] for r in results
    ]
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]

    def line(cells: list[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([cells[0].ljust(widths[0]), *numbers]) + " |"

    rule = line(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    first = results[0]
    scorer = first["scorer"] + (f", chosen by {first['chosen_by']}" if "chosen_by" in first else "")
    hashes = f"split {first['split_fingerprint'][:16]}, data {first['data_fingerprint'][:16]}"
    return "\n".join([line(heads), rule, *map(line, rows), f"{first['dataset']}, test; {scorer}; {hashes}."])


if __name__ == "__main__":
    cli.define_config_flags(names=_DATA_FLAGS)
    cli.define_run_flags()
    flags.adopt_module_key_flags(cli)  # so that --help shows them
    cli.run(main)
