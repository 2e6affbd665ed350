"""The page of a run."""

from typing import Any

from slif_jax.config import Config
from slif_jax.outcome import weights_text
from slif_jax.plots import PART_NAMES, groups_figure, run_figures
from slif_jax.report.examples import examples_section
from slif_jax.report.html import Html, figure, join, page, table, tag
from slif_jax.report.provenance import environment_table, hashes_table, settings_table, value_text
from slif_jax.studies.plan import default_metrics
from slif_jax.workdir import Workdir, WorkdirError

_DESCRIPTIONS = {
    "loss": "Training loss and its parts by epoch, on a logarithmic scale.",
    "validation": "Validation by epoch; the dotted line marks the epoch that was chosen.",
    "correlation": "Share of the edges of the correlation graph that each rebuild kept: high means a settled graph.",
    "weights": "What each linear model beside the vectors weighs, tuned on validation: 0 is of no use there.",
}


def run_report(folder: Workdir, result: dict[str, Any], *, data_dir: str | None, num_users: int) -> str:
    """A run as a page.

    Args:
      folder: of the run.
      result: its `result.json`.
      data_dir: where fetched data sets are kept.
      num_users: users to show; 0 does not load the model.

    Returns:
      HTML.
    """
    stored = folder.stored_config()
    assert stored is not None
    config = stored[0]
    sections = {
        "Result": _result(result, config),
        "Training": _training(folder, result, config),
        "Items and users": _groups(result, config),
        "Examples": _examples(folder, data_dir, num_users),
        "Settings": settings_table(config.to_dict(), Config().to_dict()),
        "Provenance": _provenance(folder, result),
    }
    subtitle = join(
        [
            f"Protocol {result['protocol']}. Epoch {result['best_epoch']} of {result['epochs']}, chosen by "
            f"{config.select_on} on {'validation' if result['selected_on'] == 'valid' else result['selected_on']}. "
            f"Seed {result['seed']}."
        ]
    )
    return page(f"SLIF-MR on {result['dataset']}", subtitle, sections, _footer(folder))


def _result(result: dict[str, Any], config: Config) -> Html:
    if not any(value is not None for value in result["test"].values()):
        valid = result["valid"].get(config.select_on)
        tile = "" if valid is None else _tile(f"{config.select_on} on validation", valid, None)
        return join(
            [
                tag("p", "Test was not evaluated: this run was one of a search, or no user has an item in test."),
                tag("dl", tile, class_="tiles"),
            ]
        )
    cut = config.select_on.split("@")[1]
    names = dict.fromkeys((*default_metrics(config), f"hit@{cut}", f"mrr@{cut}"))
    tiles = [_tile(name, result["test"][name], result["test_interval"].get(name)) for name in names]
    rows = []
    for name, value in result["test"].items():
        interval, valid = result["test_interval"].get(name), result["valid"].get(name)
        rows.append([name, f"{value:.4f}", _interval(interval), "" if valid is None else f"{valid:.4f}"])
    everything = table(
        f"Means over {result['test_users']:,} users. The interval is that of the mean over these users: it says "
        "nothing of other seeds or splits.",
        ("metric", "test", "95 % interval", "validation"),
        rows,
    )
    without = result["test_without_history"]["users"]
    note = f"{without:,} users without training interactions are not in these means." if without else ""
    return join(
        [
            tag("dl", *tiles, class_="tiles"),
            tag("p", f"Test, mean over {result['test_users']:,} users, with 95 % intervals. {note}", class_="soft"),
            *([tag("p", weights_text(result), class_="soft")] if result.get("linear_weights") else []),
            tag("details", tag("summary", "All metrics"), everything),
        ]
    )


def _tile(name: str, value: float, interval: list[float] | None) -> Html:
    small = tag("small", f"95 %: {_interval(interval)}") if interval else Html("")
    return tag("div", tag("dt", name), tag("dd", f"{value:.4f}", small), class_="tile")


def _interval(interval: list[float] | None) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""


def _training(folder: Workdir, result: dict[str, Any], config: Config) -> Html:
    rows = folder.read_metrics()
    if not rows:
        return tag("p", "There is no metrics.jsonl: nothing to draw.")
    options = {"metric": config.select_on, "best_epoch": result["best_epoch"]}
    drawn = [
        figure(lambda name=name: run_figures(rows, **options)[name], _DESCRIPTIONS[name])
        for name in run_figures(rows, **options)
    ]
    if not any(row["correlation_kept"] is not None for row in rows):
        reason = "The correlation graph was never rebuilt"
        reason += "." if config.uses_correlation() else ": the self-loop is off."
        drawn.append(tag("p", reason, class_="soft"))
    columns = ("epoch", "loss", f"valid {config.select_on}", "edges kept")
    lines = [
        [
            str(row["epoch"]),
            f"{row['loss']['loss']:.4f}",
            f"{row['valid'][config.select_on]:.4f}" if row["valid"] else "",
            "" if row["correlation_kept"] is None else f"{row['correlation_kept']:.0%}",
        ]
        for row in rows
    ]
    by_epoch = tag("details", tag("summary", "Numbers by epoch"), table("Each epoch.", columns, lines, texts=()))
    return join([tag("div", *drawn, class_="pair"), by_epoch])


def _groups(result: dict[str, Any], config: Config) -> Html:
    groups = result.get("test_groups")
    if not groups:
        return tag("p", "Test was not evaluated, so there are no groups.")
    metrics = default_metrics(config)

    def rows(kind: dict[str, Any], names: dict[str, str]) -> list[list[str]]:
        lines = []
        for name, group in kind.items():
            scores = []
            for metric in metrics if group["means"] else ():
                scores += [f"{group['means'][metric]:.4f}", _interval(group["interval"].get(metric))]
            lines.append(
                [
                    names.get(name, name),
                    f"{group['users']:,}",
                    f"{group['relevant']:,}",
                    *(scores or ["-"] * 2 * len(metrics)),
                ]
            )
        return lines

    scored = [text for metric in metrics for text in (metric, "95 % interval")]
    items = table(
        "Relevant items with training interactions (warm) and without any (cold). The lists are the same; a hit on the "
        "other kind counts as a miss. Among themselves: lists of cold items alone.",
        ("items", "users", "relevant items", *scored),
        rows(groups["items"], PART_NAMES),
    )
    users = table(
        "Users by their number of training interactions.",
        ("interactions", "users", "relevant items", *scored),
        rows(groups["activity"], {}),
    )
    drawing = figure(
        lambda: groups_figure(groups, metrics), "Mean and 95 % interval by kind of item and by activity of the user."
    )
    return join([drawing, items, users])


def _examples(folder: Workdir, data_dir: str | None, num_users: int) -> Html:
    if not num_users:
        return tag("p", "No users were asked for (--num_users=0).")
    try:
        return examples_section(folder.path, data_dir=data_dir, num_users=num_users)
    except WorkdirError as error:
        return tag("p", f"No examples: {error}")


def _provenance(folder: Workdir, result: dict[str, Any]) -> Html:
    hashes = {"data": result["data_fingerprint"], "split": result["split_fingerprint"]}
    flags = folder.path / "flags.txt"
    command = Html("")
    if flags.is_file():
        command = join(
            [
                tag("p", "The flags that repeat this run with --flagfile:"),
                tag("details", tag("summary", "flags.txt"), tag("pre", flags.read_text())),
            ]
        )
    rules = [[name.replace("_", " "), value_text(value)] for name, value in result["rules"].items()]
    protocol = table("Rules of the protocol.", ("rule", "value"), rules, texts=(0, 1))
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in result["seconds"].items())
    return join(
        [
            hashes_table(hashes),
            tag("p", f"Seconds: {seconds}. Peak memory {result['peak_memory_bytes'] / 2**20:.0f} MiB."),
            tag("details", tag("summary", f"Protocol {result['protocol']}"), protocol),
            command,
            environment_table(folder.read_json("environment.json")),
        ]
    )


def _footer(folder: Workdir) -> str:
    return f"Made by slif_jax from {folder.path.name}. Everything on this page is in the file itself."
