"""What every benchmark shares: interleaved timing in one process, one thread, and a Markdown report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from stillhouse_experiments.machine import cpu_line
from stillhouse_experiments.timing import interleaved, ratio

__all__ = ["interleaved", "machine", "ratio", "report"]


def machine() -> str:
    """One line about what ran: processor, cores, versions."""
    return cpu_line("one thread used")


def report(title: str, header: Sequence[str], rows: Sequence[Sequence[object]], notes: Sequence[str] = ()) -> str:
    """A Markdown section with a table; printed, and written to the file that ``--write FILE`` names."""
    words = sys.argv[: sys.argv.index("--write")] if "--write" in sys.argv else sys.argv
    command = shlex.join(["python", *words])
    lines = [f"## {title}", "", f"Command: `{command}`. Machine: {machine()}.", ""]
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    lines += ["", *notes] if notes else []
    text = "\n".join(lines) + "\n"
    print(text)
    if "--write" in sys.argv:
        Path(sys.argv[sys.argv.index("--write") + 1]).write_text(text)
    return text
