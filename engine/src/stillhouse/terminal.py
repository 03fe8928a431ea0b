"""The terminal and pictures: what is printed is shown as it is, whoever has written it.

Names of classes, files and runs may be a stranger's. In what is printed there is no markup, no emoji code and no
character that moves the cursor, changes colours or turns text around.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

__all__ = ["Terminal", "make_table", "plain", "printable"]

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"  # turn text around, take no room, break lines
    "\ud800-\udfff]"  # bytes of a file's name that are no UTF-8
)


def printable(text: str) -> str:
    r"""Return ``text`` with characters that a terminal acts on, or cannot show, written out: ``\x1b``, ``\u202e``."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def plain(text: str) -> str:
    """Return ``text`` as matplotlib shows it unchanged: no formula between dollars, no label that is left out."""
    return printable(text if not text.startswith("_") else f" {text}").replace("$", r"\$")


_WIDE = 10_000
"""Characters in a line, where a table is measured as it would like to be."""


class Terminal(Console):
    """rich's console for text that anybody may have written.

    Args:
        options: rich's; markup and emoji codes are off, and numbers are not coloured.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """See rich: before it is laid out, so that a table's columns have room for what is written out."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See rich: what is shown at last passes here, in tables and bars too."""
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else self._encodable(printable(segment.text))
            yield segment if shown == segment.text else Segment(shown, segment.style)

    def on_broken_pipe(self) -> None:
        """Leave a reader that has had enough, `| head`, to the command; rich would end the process here."""
        raise

    def _encodable(self, text: str) -> str:
        """``text`` with what the output's encoding lacks written out, instead of an error halfway."""
        if text.isascii():
            return text
        return text.encode(self.encoding, "backslashreplace").decode(self.encoding)


class _Table(Table):
    """rich's, whose cells of plain Text have room for what is written out of them, and whose words stay whole.

    rich narrows columns without regard to the words in them. Here a column is at least as wide as its longest word; where
    that is too much for the screen, each row is shown as a block of lines.
    """

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """See rich."""
        super().add_row(*map(_write_out, cells), **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """See rich."""
        wide = options.update(max_width=_WIDE)
        sizes = [
            [Measurement.get(console, wide, cell) for cell in (column.header, *column.cells)] for column in self.columns
        ]
        least = [max(size.minimum for size in column) for column in sizes]
        natural = [max(size.maximum for size in column) for column in sizes]
        lines = Measurement.get(console, wide, self).maximum - sum(natural)
        spare = options.max_width - lines - sum(least)
        if spare < 0:
            yield from self._stack()
            return
        needs = [most - few for few, most in zip(least, natural, strict=True)]
        if sum(needs) > spare:
            for column, few, need in zip(self.columns, least, needs, strict=True):
                column.width = few + spare * need // sum(needs)
        yield from super().__rich_console__(console, options)
        for column in self.columns:
            column.width = None

    def _stack(self) -> RenderResult:
        """Each row as its first cell, with the others below it under their columns' names."""
        if self.title is not None:
            yield _as_text(self.title, style="bold")
        first, *others = [list(column.cells) for column in self.columns]
        for row, head in enumerate(first):
            yield _as_text(head)
            for column, cells in zip(self.columns[1:], others, strict=True):
                text = _as_text(cells[row])
                if text.plain:
                    yield Padding(Text.assemble(_as_text(column.header, style="bold"), "  ", text), (0, 0, 0, 2))


def _as_text(cell: RenderableType, style: str = "") -> Text:
    """A cell of a table of ours, which is text or a string; what is long is folded, never cut off."""
    return cell if isinstance(cell, Text) else Text(str(cell), style=style, overflow="fold")


def _write_out(cell: RenderableType | None) -> RenderableType | None:
    if not isinstance(cell, Text) or cell.spans:
        return cell
    shown = cell.copy()
    shown.plain = printable(cell.plain)
    return shown


def make_table(*columns: str, title: str | None = None) -> Table:
    """Make a table with a line under its head and no other lines."""
    return _Table(
        *columns,
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
