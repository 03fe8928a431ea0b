"""The pages of the documentation, their fenced blocks, and the plugins that they write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from support.imports import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("plugins/*/README.md"), ROOT / "engine" / "README.md"]
)
SHOWN = [
    name
    for page in PAGES
    for name in re.findall(r"^<!-- generated: reference (\S+) -->$", page.read_text(encoding="utf-8"), re.MULTILINE)
]
"""The names that the reference shows."""
DOCUMENTED = {
    "similarity": ("docs/first-run.md", "class Similarity"),
    "center": ("docs/writing-a-plugin.md", "class Center("),
}
"""The plugins that pages write out with a pyproject.toml: the page, and what the block with the code contains."""

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def fences(language: str) -> Iterator[tuple[Path, str]]:
    """Every fenced block of a language, with its page."""
    for page in PAGES:
        for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
            if match[1] == language:
                yield page, match[2]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def short(page: Path) -> str:
    """A page's path in the repository."""
    return str(page.relative_to(ROOT))


def block(page: str, language: str, part: str) -> str:
    """The one block of ``page`` that contains ``part``."""
    (found,) = [text for where, text in fences(language) if short(where) == page and part in text]
    return found


def documented(use: str) -> tuple[str, str]:
    """The code of the plugin ``use`` of :data:`DOCUMENTED`, and its pyproject.toml."""
    page, part = DOCUMENTED[use]
    return block(page, "python", part), block(page, "toml", f'"stillhouse_{use}:')
