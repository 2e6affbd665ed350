"""What made the numbers of a page: settings, hashes, command, environment."""

from typing import Any

from slif_jax.report.html import Html, join, table, tag


def settings_table(settings: dict[str, Any], defaults: dict[str, Any]) -> Html:
    """Every setting, the changed ones first and open.

    Args:
      settings: as in `config.json`.
      defaults: those of `Config`.

    Returns:
      Markup.
    """
    changed = {name: value for name, value in settings.items() if name in defaults and value != defaults[name]}
    others = {name: value for name, value in settings.items() if name in defaults and name not in changed}
    columns = ("flag", "value", "default")
    rows = [[f"--{name}", value_text(value), value_text(defaults[name])] for name, value in changed.items()]
    first = table("Settings that are not the default.", columns, rows, texts=(0, 1, 2))
    if not rows:
        first = tag("p", "All settings have their default.")
    rest = table(
        "All other settings.", columns[:2], [[f"--{k}", value_text(v)] for k, v in others.items()], texts=(0, 1)
    )
    return join([first, tag("details", tag("summary", f"The other {len(others)} settings"), rest)])


def value_text(value: Any) -> str:
    """A setting as it is typed."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def environment_table(environment: dict[str, Any] | None) -> Html:
    """Versions and machine, folded."""
    if not environment:
        return tag("p", "There is no record of the environment.", class_="soft")
    rows = [["python", environment["python"]], ["platform", environment["platform"]]]
    rows += [["devices", ", ".join(environment["devices"])], ["cores", str(environment["cpu_count"])]]
    rows += [[name, version or "not installed"] for name, version in environment["packages"].items()]
    content = table("Where this was computed.", ("what", "which"), rows, texts=(0, 1))
    return tag("details", tag("summary", "Environment"), content)


def hashes_table(hashes: dict[str, str]) -> Html:
    """SHA-256 sums in full."""
    rows = [[name, value] for name, value in hashes.items()]
    return table(
        "SHA-256 of what was trained on and how: equal hashes, comparable numbers.", ("of", "hash"), rows, texts=(0, 1)
    )
