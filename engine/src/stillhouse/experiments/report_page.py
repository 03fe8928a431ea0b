"""Parts of a page of HTML that needs no other file: whatever text is put into it is shown as it is, whoever has written it."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from matplotlib.figure import Figure

from stillhouse.experiments.picture import to_svg
from stillhouse.terminal import printable

__all__ = ["Markup", "element", "make_figure", "make_list", "make_page", "make_section", "make_table"]

_STYLE = """
body { margin: 0 auto; padding: 1.5rem; max-width: 72rem; color: #263238; background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .3rem; border-bottom: 1px solid #cfd8dc; }
p.how { color: #546e7a; margin: .3rem 0 .8rem; }
p.answer { font-size: 1.05rem; }
nav { display: flex; flex-wrap: wrap; gap: 0 1rem; }
nav a { color: #00796b; }
div.wide { overflow-x: auto; margin-bottom: .8rem; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #eceff1; text-align: right; vertical-align: top; }
th.text, td.text, tbody th { text-align: left; min-width: 7rem; max-width: 24rem; overflow-wrap: break-word; }
thead th { border-bottom: 2px solid #b0bec5; font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 500; }
tbody th, thead th:first-child { position: sticky; left: 0; background: #fff; }
td.tick { text-align: center; color: #00796b; }
code, pre { font: 13px/1.4 ui-monospace, "Liberation Mono", monospace; overflow-wrap: anywhere; white-space: pre-wrap; }
figure { margin: .5rem 0; overflow-x: auto; }
svg { max-width: 100%; height: auto; }
@media screen and (max-width: 48rem) { svg { max-width: none; } }
@media print { body { max-width: none; } nav { display: none; } h2 { break-after: avoid; } }
"""


class Markup(str):
    """HTML. Any other text is escaped where it is put into an element."""

    __slots__ = ()


def element(name: str, *inner: str, **attributes: str) -> Markup:
    """Make an element; ``class_`` stands for the attribute ``class``."""
    told = "".join(f' {key.rstrip("_")}="{_escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{told}>{''.join(map(_escape, inner))}</{name}>")


def _escape(text: str) -> str:
    return text if isinstance(text, Markup) else html.escape(printable(text))


def make_table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int] = ()) -> Markup:
    """Make a table whose first column names the rows; a tick stands in the middle.

    Args:
        head: titles of the columns.
        rows: as many cells each.
        texts: the columns of text, by number; the others are of numbers.
    """

    def make_cell(place: int, cell: str) -> Markup:
        if place == 0:
            return element("th", cell, scope="row")
        kind = "tick" if cell == "✓" else "text" if place in texts else ""
        return element("td", cell, class_=kind) if kind else element("td", cell)

    titles = [
        element("th", title, scope="col", **({"class_": "text"} if place == 0 or place in texts else {}))
        for place, title in enumerate(head)
    ]
    body = [element("tr", *(make_cell(place, cell) for place, cell in enumerate(row))) for row in rows]
    table = element("table", element("thead", element("tr", *titles)), element("tbody", *body))
    return element("div", table, class_="wide")


def make_list(lines: Sequence[str]) -> Markup:
    """Make a list of sentences; nothing where there are none."""
    return element("ul", *(element("li", line) for line in lines)) if lines else Markup("")


def make_figure(figure: Figure, label: str) -> Markup:
    """Put a figure into the page as SVG; ``label`` says to those who do not see it what it shows."""
    text = to_svg(figure)
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Two figures of a page name their groups alike, and nothing refers to these.
    text = re.sub(r'<g id="[^"]*"', "<g", text).replace("<svg", f'<svg role="img" aria-label="{_escape(label)}"', 1)
    return element("figure", Markup(text))


def make_section(name: str, title: str, how: str, *inner: str) -> Markup:
    """Make a section that begins with a sentence that says how to read it; ``name`` is what a link goes to."""
    return element("section", element("h2", title), element("p", how, class_="how"), *inner, id=name)


def make_page(title: str, *inner: str) -> str:
    """Make the whole page."""
    head = element(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", title),
        element("style", Markup(_STYLE)),
    )
    body = element("body", element("h1", title), *inner)
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"
