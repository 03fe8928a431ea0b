"""The terminal: what is printed is shown as it is, whoever has written it.

Names of classes, files and runs may be a stranger's. In what is printed there is no markup, no emoji code and no
character that moves the cursor, changes colours or turns text around.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

__all__ = ["Terminal", "make_table", "printable"]

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"  # turn text around, take no room, break lines
    "\ud800-\udfff]"  # bytes of a file's name that are no UTF-8
)


def printable(text: str) -> str:
    r"""Return ``text`` with characters that a terminal acts on, or cannot show, written out: ``\x1b``, ``\u202e``."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


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
    """rich's, whose cells of plain Text have room for what is written out of them."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """See rich."""
        super().add_row(*map(_write_out, cells), **options)


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
