"""What the template leaves for the author to say, and is not said yet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from stillhouse.entries import PLUGINS, installed
from stillhouse.testing.subject import Subject

__all__ = ["PLACEHOLDER", "find_unsaid"]

PLACEHOLDER = "TO BE SAID"
"""What the template writes where an author is to."""


def find_unsaid(subject: Subject) -> Iterator[str]:
    """The files of the plugin's package that have :data:`PLACEHOLDER` still, each with its lines, in a sentence."""
    files = [path for name in subject.author.modules if (path := _file_of(name)) is not None]
    texts = {path.name: path.read_text(encoding="utf-8") for path in files}
    for name, text in {**_read_readme(subject, files), **texts}.items():
        lines = [str(number) for number, line in enumerate(text.splitlines(), 1) if PLACEHOLDER in line]
        if lines:
            yield f"{name} has {PLACEHOLDER!r} still, in line{'s' if len(lines) > 1 else ''} {', '.join(lines)}"


def _file_of(module: str) -> Path | None:
    file = getattr(sys.modules[module], "__file__", None)
    return Path(file) if file and Path(file).is_file() else None


def _read_readme(subject: Subject, files: list[Path]) -> dict[str, str]:
    """The README beside the source's pyproject.toml, which is newer than what was installed; else the distribution's own."""
    for folder in [] if not files else files[0].resolve().parents:
        if (folder / "pyproject.toml").is_file():
            path = folder / "README.md"
            return {path.name: path.read_text(encoding="utf-8")} if path.is_file() else {}
    found = next((p for p in installed(PLUGINS) if p.distribution and p.distribution == subject.distribution), None)
    return {} if found is None else {f"the README of {found.origin}": found.readme}
