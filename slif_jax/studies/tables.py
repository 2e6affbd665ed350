"""The table of a study as CSV (every digit), Markdown and LaTeX (as people read it)."""

import csv
import io
import re
from typing import Any, NamedTuple

from slif_jax.plots import PART_NAMES
from slif_jax.studies.plan import Plan
from slif_jax.studies.results import Row, Score
from slif_jax.workdir import Workdir

_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
}
_TEX |= {character: "\\" + character for character in "&%$#_{}"} | {"<": "$<$", ">": "$>$"}


class Table(NamedTuple):
    """A table for people and the numbers behind it."""

    title: str
    columns: list[str]
    cells: list[list[str]]
    notes: list[str]
    """How to read it, and what made it; one paragraph each."""
    records: list[dict[str, Any]]
    """The rows with every digit, by column of the CSV file."""


def study_table(plan: Plan, rows: list[Row], study: dict[str, Any]) -> Table:
    """Lays out the rows of a study.

    Args:
      plan: the study.
      rows: from `study_rows`.
      study: what `study.json` will hold.

    Returns:
      The table.
    """
    tested = any(arm.reference for arm in plan.arms)
    several = len(plan.parts) > 1
    columns = ["", *(["items"] if several else []), "users", "runs"]
    for metric in plan.metrics:
        columns += [metric, *([f"Δ {metric}", "p (Holm)"] if tested else [])]
    cells, records = [], []
    for row in rows:
        line = [row.label, *([PART_NAMES[row.part]] if several else []), f"{row.users:,}", str(row.runs)]
        record: dict[str, Any] = {"arm": row.label, "items": row.part, "users": row.users, "runs": row.runs}
        for metric, score in row.scores.items():
            line += [mean_text(score), *([difference_text(score), p_text(score.p_holm)] if tested else [])]
            record |= {f"{metric}_mean": score.mean, f"{metric}_std": score.std}
            if tested:
                record |= {f"{metric}_{name}": getattr(score, name) for name in ("difference", "p", "p_holm")}
        cells.append(line)
        records.append(record)
    return Table(plan.title, columns, cells, study_notes(plan, study, tested=tested), records)


def study_notes(plan: Plan, study: dict[str, Any], *, tested: bool) -> list[str]:
    """How the numbers of a study were made."""
    runs = len(plan.seeds)
    spread = f"mean ± standard deviation over {runs} seeds" if runs > 1 else "one seed, so without a spread"
    notes = [
        f"Test, protocol {study['arms'][0]['protocol']}, epoch chosen on validation; {spread} "
        f"({', '.join(map(str, plan.seeds))})."
    ]
    if tested:
        sides = {
            "greater": "the reference is better than the row",
            "less": "the reference is worse than the row",
            "two-sided": "reference and row differ",
        }
        pairs = dict.fromkeys(arm.reference for arm in plan.arms if arm.reference)
        notes.append(
            f"Δ: row minus reference ({', '.join(f'{name!r}' for name in pairs)}). p: Wilcoxon signed-rank test over "
            f"users, each user's value averaged over seeds first; alternative: {sides[plan.alternative]}; corrected "
            "after Holm over the tested rows of the column."
        )
    if study["command"]:
        notes.append(f"Command: {study['command']}")
    notes += hash_notes(study["arms"])
    return notes


def hash_notes(arms: list[dict[str, Any]]) -> list[str]:
    """Which data, split and settings; one line where they are the same for all arms."""
    notes = []
    for field, name in (("data_fingerprint", "Data"), ("split_fingerprint", "Split"), ("config_hash", "Settings")):
        hashes = {arm["label"]: arm[field][:16] for arm in arms}
        if len(set(hashes.values())) == 1:
            notes.append(f"{name} {next(iter(hashes.values()))}.")
        else:
            notes.append(f"{name} " + ", ".join(f"{value} ({label})" for label, value in hashes.items()) + ".")
    return notes


def mean_text(score: Score) -> str:
    """'0.3621 ± 0.0012', or without the spread."""
    if score.mean != score.mean:
        return "-"
    return f"{score.mean:.4f}" + ("" if score.std is None else f" ± {score.std:.4f}")


def difference_text(score: Score) -> str:
    """'-0.0031', or a dash for a reference."""
    return "-" if score.difference is None or score.difference != score.difference else f"{score.difference:+.4f}"


def p_text(p: float | None) -> str:
    """'0.0123' or '<0.0001', or a dash where nothing was tested."""
    if p is None or p != p:
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
    lines = ["% Needs \\usepackage{booktabs}.", *(f"% {note}" for note in table.notes)]
    lines += [r"\begin{table}", r"\centering", rf"\caption{{{text(table.title)}}}"]
    lines += [rf"\begin{{tabular}}{{{width}}}", r"\toprule", line(table.columns), r"\midrule"]
    lines += [*(line(row) for row in table.cells), r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"
