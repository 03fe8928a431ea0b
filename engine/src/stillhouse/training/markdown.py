"""Markdown that shows text as it is, whoever has written it: names of files, classes and runs may be a stranger's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from stillhouse.terminal import printable

__all__ = ["code", "fence", "make_table"]

_MARKUP = re.compile(r"[^\w\s.,;-]|_")
"""What may have a meaning in Markdown or HTML."""


def code(text: str) -> str:
    """``text`` as code within a line, in a table too: no markup, no link and no line break in it means anything."""
    line = " ".join(printable(text).split())
    if not line or "|" in line:  # a table's cell ends at a bar, within code too; a number of a character never ends one
        return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", line)
    ticks = "`" * (_longest_run(line) + 1)
    room = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{ticks}{room}{line}{room}{ticks}"


def fence(text: str, language: str = "") -> str:
    """``text`` as a block of code, between more backticks than it has anywhere in a row."""
    ticks = "`" * max(3, _longest_run(text) + 1)
    return f"{ticks}{language}\n{printable(text).rstrip()}\n{ticks}"


def make_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what is in its cells is Markdown, but for bars, which are shown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _longest_run(text: str) -> int:
    """The most backticks in a row."""
    return max(map(len, re.findall("`+", text)), default=0)
