"""The page of a study."""

from typing import Any

from slif_jax.config import Config
from slif_jax.plots import compares_splits, study_figure
from slif_jax.report.html import Html, figure, join, page, table, tag
from slif_jax.report.provenance import environment_table, hashes_table, settings_table, value_text
from slif_jax.studies.tables import study_table, sweep_table
from slif_jax.workdir import Workdir

_TEXT_COLUMNS = ("row", "items", "run")


def study_report(folder: Workdir, study: dict[str, Any]) -> str:
    """A study as a page.

    Args:
      folder: of the study.
      study: its `study.json`.

    Returns:
      HTML.
    """
    search = study["kind"] == "sweep"
    shown = sweep_table(study) if search else study_table(study)
    notes = [note for note in shown.notes if not note.startswith(("Command: ", "Data ", "Split ", "Settings "))]
    sections = {
        "Result": join(
            [
                _table(shown.title, shown.columns, shown.cells),
                *(tag("p", note, class_="soft") for note in notes),
                figure(lambda: study_figure(study), _description(study), wide=not search),
            ]
        ),
        "Runs": _trials(study) if search else _cells(study),
        "Settings": _settings(study),
        "Provenance": join(
            [
                tag("p", "Command:"),
                tag("pre", study["command"] or "not recorded"),
                *(_hashes(arm) for arm in _different(study["arms"])),
                environment_table(study["environment"]),
            ]
        ),
    }
    kind = study["kind"].replace("_", " ")
    subtitle = join([f"A study: {kind}. Protocol {study['arms'][0]['protocol']}."])
    return page(study["title"], subtitle, sections, f"Made by slif_jax from {folder.path.name}.")


def _table(caption: str, columns: list[str], rows: list[list[str]]) -> Html:
    return table(caption, columns, rows, texts=[n for n, name in enumerate(columns) if name in _TEXT_COLUMNS])


def _description(study: dict[str, Any]) -> str:
    if study["kind"] == "sweep":
        return "Validation of each trial, in the order in which they were tried, and the best so far."
    if compares_splits(study):
        return (
            "Each run less the reference's on the same split. Large marks: means with one standard error to each side; "
            "small ones: the runs; dotted line: the reference."
        )
    of = "runs" if study.get("split_seeds") else "seeds"
    marks = f"Large marks: means over {of} with one standard deviation to each side; small ones: the {of}"
    return marks + ("." if study["arms"][0]["x"] is not None else "; dotted line: the first row.")


def _cells(study: dict[str, Any]) -> Html:
    metrics, splits = study["metrics"], bool(study.get("split_seeds"))
    columns = [
        "row",
        *(["split"] if splits else []),
        "seed",
        "best epoch",
        *(f"valid {name}" for name in metrics),
        *(f"test {name}" for name in metrics),
    ]
    rows = [
        [cell["arm"], *([str(cell["split_seed"])] if splits else []), str(cell["seed"])]
        + [f"{cell['best_epoch']} of {cell['epochs']}"]
        + ["" if cell["valid"][name] is None else f"{cell['valid'][name]:.4f}" for name in metrics]
        + [f"{cell['test'][name]:.4f}" for name in metrics]
        + [f"{cell['seconds']:.0f}"]
        for cell in study["cells"]
    ]
    folder = "runs/<row>-split<split>-seed<seed>" if splits else "runs/<row>-seed<seed>"
    return _table(f"Every run; its folder is {folder}.", [*columns, "seconds"], rows)


def _trials(study: dict[str, Any]) -> Html:
    rows = [[trial["run"], str(trial["trial"]), f"{trial['value']:.4f}"] for trial in study["trials"]]
    return _table("Every trial, below runs/.", ["run", "trial", f"valid {study['metrics'][0]}"], rows)


def _settings(study: dict[str, Any]) -> Html:
    arms, defaults = list(study["settings"].items()), Config().to_dict()
    label, first = arms[0]
    parts = [tag("p", "Settings of ", tag("b", label), "."), settings_table(first, defaults)]
    rows = []
    for other, settings in arms[1:]:
        changed = [f"--{name}={value_text(value)}" for name, value in settings.items() if value != first.get(name)]
        rows.append([other, " ".join(changed)])
    if rows:
        parts.append(table(f"What differs from {label}.", ("row", "settings"), rows, texts=(0, 1)))
    if study["kind"] == "sweep":
        rows = [[name, text, value_text(study["chosen"]["settings"][name])] for name, text in study["space"].items()]
        parts.append(table("What was searched.", ("setting", "range", "chosen"), rows, texts=(0, 1)))
    return join(parts)


def _different(arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first arm, and those whose data are others."""
    return [
        arm for n, arm in enumerate(arms) if arm["data_fingerprint"] not in [a["data_fingerprint"] for a in arms[:n]]
    ]


def _hashes(arm: dict[str, Any]) -> Html:
    hashes = {"settings": arm["config_hash"]}
    for name in ("data", "split"):
        found = arm[f"{name}_fingerprint"]
        form = "split {}" if name == "split" else "data of split {}"
        by_split = {} if isinstance(found, str) else {form.format(split): each for split, each in found.items()}
        hashes = {**hashes, **(by_split or {name: found})}
    return join([tag("h3", arm["label"]), hashes_table(hashes)])
