"""The table of a study as CSV (every digit), Markdown and LaTeX (as people read it)."""

import csv
import io
import re
import statistics
from typing import Any, NamedTuple

from slif_jax.plots import PART_NAMES
from slif_jax.studies.plan import counted
from slif_jax.workdir import Workdir

_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
}
_TEX |= {character: "\\" + character for character in "&%$#_{}"} | {"<": "$<$", ">": "$>$"}
_SIDES = {
    "greater": "the reference is better than the row",
    "less": "the reference is worse than the row",
    "two-sided": "reference and row differ",
}


class Table(NamedTuple):
    """A table for people and the numbers behind it."""

    title: str
    columns: list[str]
    cells: list[list[str]]
    notes: list[str]
    """How to read it, and what made it; one paragraph each."""
    records: list[dict[str, Any]]
    """The rows with every digit, by column of the CSV file."""


def study_table(study: dict[str, Any]) -> Table:
    """Lays out the rows of a study.

    Args:
      study: what `study.json` holds; of any kind but 'sweep', which has `sweep_table`.

    Returns:
      The table.
    """
    tested = any(arm["reference"] for arm in study["arms"])
    several = len({row["part"] for row in study["rows"]}) > 1
    columns = ["row", *(["items"] if several else []), "users", "runs"]
    for metric in study["metrics"]:
        columns += [metric, *([f"Δ {metric}", "p (Holm)"] if tested else [])]
    columns += ["s/epoch", "s to best"]
    cells, records = [], []
    for row in study["rows"]:
        line = [row["label"], *([PART_NAMES[row["part"]]] if several else []), f"{row['users']:,}", str(row["runs"])]
        record = {"row": row["label"], "items": row["part"], "users": row["users"], "runs": row["runs"]}
        for metric, score in row["scores"].items():
            line += [mean_text(score), *([_signed(score["difference"]), p_text(score["p_holm"])] if tested else [])]
            record |= {f"{metric}_mean": score["mean"], f"{metric}_std": score["std"]}
            if tested:
                record |= {f"{metric}_{name}": score[name] for name in ("difference", "p", "p_holm")}
        epoch_seconds, best_seconds = _seconds(study, row["label"])
        cells.append([*line, _seconds_text(epoch_seconds), _seconds_text(best_seconds)])
        records.append(record | {"epoch_seconds": epoch_seconds, "seconds_to_best": best_seconds})
    return Table(study["title"], columns, cells, _notes(study, tested=tested), records)


def _seconds(study: dict[str, Any], label: str) -> tuple[float | None, float | None]:
    """Medians over the runs of an arm: of an epoch, and of all epochs up to the best one."""
    runs = [cell for cell in study["cells"] if cell["arm"] == label]
    epochs = [run.get("epoch_seconds") for run in runs]
    if not runs or None in epochs:  # of an earlier version
        return None, None
    best = [seconds * run["best_epoch"] for seconds, run in zip(epochs, runs, strict=True)]
    return statistics.median(epochs), statistics.median(best)


def _seconds_text(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3g}"


def _notes(study: dict[str, Any], *, tested: bool) -> list[str]:
    """How the numbers of a study were made."""
    runs, drawn = drawn_text(study)
    spread = (
        f"mean ± standard deviation over {runs}" if study["rows"][0]["runs"] > 1 else f"{runs}, so without a spread"
    )
    arm = study["arms"][0]
    chosen = "validation" if arm["selected_on"] == "valid" else "test, as this protocol does"
    notes = [f"Test, protocol {arm['protocol']}, epoch chosen on {chosen}; {spread} ({drawn})."]
    if tested:
        references = dict.fromkeys(arm["reference"] for arm in study["arms"] if arm["reference"])
        notes.append(
            f"Δ: row minus reference ({', '.join(map(repr, references))}), mean over users. p: Wilcoxon signed-rank "
            f"test over users; alternative: {_SIDES[study['alternative']]}; corrected after Holm over the tested rows "
            "of the column. For both, each user's value is averaged over the runs first."
        )
    candidates = sorted({count for cell in study["cells"] if (count := cell.get("cold_candidates"))})
    if candidates and any(row["part"] == "among_cold" for row in study["rows"]):
        chances = [
            f"{_span([min(1.0, k / count) for count in reversed(candidates)], '.4f')} (recall@{k})"
            for k in _cutoffs(study["metrics"])
        ]
        notes.append(
            f"Cold items among themselves: lists of these {_span(candidates, ',')} items alone, of which chance would "
            f"find {', '.join(chances)}."
        )
    notes.append("Seconds, medians over runs: steps, rebuild and validation; not compiling, loading and test.")
    return [*notes, *provenance_notes(study)]


def drawn_text(study: dict[str, Any]) -> tuple[str, str]:
    """What the runs of a row are, as '5 seeds', and which ones."""
    seeds, splits = study["seeds"], study.get("split_seeds", [])
    runs, drawn = counted(len(seeds), "seed"), ", ".join(map(str, seeds))
    if not splits:
        return runs, drawn
    each = " each" if len(splits) > 1 else ""
    return (
        f"{counted(len(splits), 'split')} with {runs}{each}",
        f"splits {', '.join(map(str, splits))}; seeds {drawn}",
    )


def _span(values: list[Any], form: str) -> str:
    """'39', or '35 to 39' where splits have different ones; `values` are in order."""
    ends = dict.fromkeys(format(value, form) for value in (values[0], values[-1]))
    return " to ".join(ends)


def _cutoffs(metrics: list[str]) -> list[int]:
    return sorted({int(metric.partition("@")[2]) for metric in metrics})


def sweep_table(study: dict[str, Any]) -> Table:
    """The trials from best to worst, with test for the first one.

    Args:
      study: what `study.json` holds.

    Returns:
      The table.
    """
    metric, chosen = study["metrics"][0], study["chosen"]
    names = list(study["space"])
    columns = ["trial", f"valid {metric}", "epoch", *(f"test {name}" for name in study["metrics"]), *names]
    cells, records = [], []
    for trial in sorted(study["trials"], key=lambda trial: (-trial["value"], trial["trial"])):
        test = chosen["test"] if trial["trial"] == chosen["trial"] else {}
        shown = [f"{trial['settings'][name]:.3g}" for name in names]
        scores = [f"{test[name]:.4f}" if test else "" for name in study["metrics"]]
        cells.append([str(trial["trial"]), f"{trial['value']:.4f}", str(trial["best_epoch"]), *scores, *shown])
        record = {"trial": trial["trial"], f"valid_{metric}": trial["value"], "best_epoch": trial["best_epoch"]}
        records.append(record | {f"test_{name}": test.get(name) for name in study["metrics"]} | trial["settings"])
    notes = [
        f"{len(cells)} trials of the tree-structured Parzen estimator, seed {study['seeds'][0]}; trial 0 has the "
        f"settings that the search started from. Searched: {'; '.join(f'{k} {v}' for k, v in study['space'].items())}.",
        f"Trials are compared on validation ({metric}). Test, protocol {study['arms'][0]['protocol']}, was evaluated "
        "once, for the chosen trial; the best of many validation values is an optimistic one.",
        *provenance_notes(study),
    ]
    return Table(study["title"], columns, cells, notes, records)


def provenance_notes(study: dict[str, Any]) -> list[str]:
    """The command, and which data, split and settings: one line where they are the same for all arms."""
    notes = [f"Command: {study['command']}"] if study["command"] else []
    for field, name in (("data_fingerprint", "Data"), ("split_fingerprint", "Split"), ("config_hash", "Settings")):
        hashes = {arm["label"]: hash_text(arm[field]) for arm in study["arms"]}
        if len(set(hashes.values())) == 1:
            notes.append(f"{name} {next(iter(hashes.values()))}.")
        else:
            notes.append(f"{name} " + "; ".join(f"{value} ({label})" for label, value in hashes.items()) + ".")
    return notes


def hash_text(value: str | dict[str, str]) -> str:
    """The first digits of a hash, or of those of each split."""
    if isinstance(value, str):
        return value[:16]
    return ", ".join(f"{part[:16]} (split {split})" for split, part in value.items())


def mean_text(score: dict[str, Any]) -> str:
    """'0.3621 ± 0.0012', without the spread of one seed, or a dash where nothing was measured."""
    if score["mean"] is None:
        return "-"
    return f"{score['mean']:.4f}" + ("" if score["std"] is None else f" ± {score['std']:.4f}")


def _signed(difference: float | None) -> str:
    return "-" if difference is None else f"{difference:+.4f}"


def p_text(p: float | None) -> str:
    """'0.0123' or '<0.0001', or a dash where nothing was tested."""
    if p is None:
        return "-"
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def write_table(folder: Workdir, name: str, table: Table) -> None:
    """Writes `<name>.csv`, `<name>.md` and `<name>.tex`."""
    folder.write_text(f"{name}.csv", _csv(table))
    folder.write_text(f"{name}.md", _markdown(table))
    folder.write_text(f"{name}.tex", _latex(table))


def _csv(table: Table) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(table.records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records)
    return file.getvalue()


def _markdown(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---" if position == 0 else "---:" for position in range(len(table.columns))]
    lines = [f"# {table.title}", "", line(table.columns), line(rule), *(line(row) for row in table.cells)]
    return "\n".join([*lines, "", "\n\n".join(_code(note) for note in table.notes)]) + "\n"


def _code(note: str) -> str:
    start, colon, rest = note.partition(": ")
    return f"{start}: `{rest}`" if start == "Command" and colon else note


def _latex(table: Table) -> str:
    def text(cell: str) -> str:
        return re.sub(r"[\\~^±Δ&%$#_{}<>]", lambda found: _TEX[found[0]], cell)

    def line(cells: list[str]) -> str:
        return " & ".join(text(cell) for cell in cells) + r" \\"

    width = "l" + "r" * (len(table.columns) - 1)
    lines = [r"% Needs \usepackage{booktabs}.", *(f"% {note}" for note in table.notes)]
    lines += [r"\begin{table}", r"\centering", rf"\caption{{{text(table.title)}}}"]
    lines += [rf"\begin{{tabular}}{{{width}}}", r"\toprule", line(table.columns), r"\midrule"]
    lines += [*(line(row) for row in table.cells), r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"
