"""Pieces of a page that stands alone: every text is escaped, pictures are drawn into it, nothing is fetched."""

import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

_INK = "#012345"  # stands for the colour of text while a figure is drawn
_PALETTE = ("#2f7fc1", "#d0661c", "#2c9a5b", "#b04a9c", "#97792f", "#5f6cc4")  # readable on white and on black

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --page: #ffffff; --card: #f5f7f9;
  --accent: #1f6fb2; --good: #1a7f4b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa5b1; --line: #38414b; --page: #14181d;
  --card: #1d232a; --accent: #6cb2ee; --good: #5ccb8f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main, header, nav, footer { max-width: 66rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p, ul, ol { margin: .5rem 0; } p { max-width: 48rem; } a { color: var(--accent); }
.soft, caption, footer, figcaption { color: var(--soft); font-size: .9rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; list-style: none; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.tile { background: var(--card); border-radius: .5rem; padding: .8rem 1rem; }
.tile dt { color: var(--soft); font-size: .85rem; }
.tile dd { margin: 0; font-size: 1.7rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile dd small { display: block; font-size: .8rem; font-weight: 400; color: var(--soft); }
.scroll { overflow-x: auto; } .scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; margin: .8rem 0; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; max-width: 48rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child { padding-left: 0; } td:not(.text) { white-space: nowrap; }
th.text, td.text { text-align: left; } thead th { color: var(--soft); font-weight: 600; white-space: nowrap; }
figure { margin: 1.2rem 0; } figure svg { width: 100%; height: auto; max-width: 44rem; }
figure.wide svg { max-width: 100%; } .pair { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); } .pair figure { margin: 0; }
code, pre { font-family: ui-monospace, monospace; font-size: .86rem; overflow-wrap: anywhere; }
pre { background: var(--card); border-radius: .5rem; padding: .8rem 1rem; white-space: pre-wrap; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--accent); }
.hit { color: var(--good); font-weight: 600; } footer { padding-top: 2rem; padding-bottom: 3rem; }
@media print { nav { display: none; } details > * { display: block; } }
"""


class Html(str):
    """Text that is markup already; everything else is escaped."""


def tag(name: str, *children: str, **attributes: str | int) -> Html:
    """An element.

    Args:
      name: of the element.
      *children: text, which is escaped, or `Html`.
      **attributes: by name; a trailing underscore goes (`class_`), others become hyphens (`aria_label`).

    Returns:
      Markup.
    """
    words = [f'{key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"' for key, value in attributes.items()]
    return Html(f"<{' '.join([name, *words])}>{join(children)}</{name}>")


def join(children: Sequence[str], between: str = "") -> Html:
    """Children one after the other."""
    return Html(between.join(child if isinstance(child, Html) else html.escape(child) for child in children))


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Sequence[int] = (0,)) -> Html:
    """A table whose rows have a heading each.

    Args:
      caption: what it shows.
      columns: headings.
      rows: cells; the first one names the row.
      texts: columns that are words; all others are numbers, to the right.

    Returns:
      Markup. A table wider than the page scrolls by itself.
    """

    def cell(name: str, place: int, content: str, **attributes: str) -> Html:
        return tag(name, content, **({"class_": "text"} if place in texts else {}), **attributes)

    head = tag("tr", *(cell("th", place, text, scope="col") for place, text in enumerate(columns)))
    lines = [
        tag("tr", *(cell("td", place, text) if place else cell("th", 0, text, scope="row") for place, text in _n(row)))
        for row in rows
    ]
    content = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *lines))
    return tag("div", content, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _n(row: Sequence[str]) -> enumerate[str]:
    return enumerate(row)


def figure(draw: Callable[[], Figure], description: str, *, wide: bool = False) -> Html:
    """A drawing in the colours of the page.

    Args:
      draw: makes the figure; called with the page's colours set.
      description: what there is to see, for those who do not see it, and below the drawing.
      wide: as wide as the page.

    Returns:
      Markup with the drawing as SVG; its words are text.
    """
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    settings: dict[Any, Any] = dict.fromkeys((*inked, "legend.edgecolor"), _INK)
    settings |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), "none")
    settings |= {"svg.fonttype": "none", "svg.hashsalt": description}
    with matplotlib.rc_context({**settings, "axes.prop_cycle": cycler(color=list(_PALETTE))}):
        file = io.StringIO()
        draw().savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    text = re.sub(r'(<g) id="[^"]*"', r"\1", text)  # two drawings of a page share no id
    text = re.sub(
        r'<svg[^>]*viewBox="([^"]*)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{html.escape(description)}">',
        text,
        count=1,
    )
    text = text.replace("xlink:href", "href")
    return tag("figure", Html(text), tag("figcaption", description), **({"class_": "wide"} if wide else {}))


def page(title: str, subtitle: Html, sections: dict[str, Html], footer: str) -> str:
    """A whole page.

    Args:
      title: of the page.
      subtitle: one line below it.
      sections: contents by heading; the headings make the navigation.
      footer: last line.

    Returns:
      The text of an HTML file that needs nothing else.
    """
    ids = {name: re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in sections}
    links = [tag("li", tag("a", name, href=f"#{anchor}")) for name, anchor in ids.items()]
    parts = [
        tag(
            "section",
            tag("h2", name, id=f"{ids[name]}-title"),
            content,
            id=ids[name],
            aria_labelledby=f"{ids[name]}-title",
        )
        for name, content in sections.items()
    ]
    head = tag(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<link rel="icon" href="data:,">'),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("p", subtitle, class_="soft")),
        tag("nav", tag("ul", *links), aria_label="Sections"),
        tag("main", *parts),
        tag("footer", footer),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"
