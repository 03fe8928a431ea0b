"""Trust: which names may lead to code while a run's folder, or an exported file, is read.

A recipe that somebody trains is theirs: what it names by ``package.module:attribute`` is imported and called. A run's
folder may be a stranger's. What such a folder names is looked up among what installed packages register, and nothing
else is imported, unless whoever reads it says so, has named it herself, or lists a folder above it in
``STILLHOUSE_TRUST``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path

import attrs

from stillhouse.entries import Group, installed
from stillhouse.errors import StillhouseError

__all__ = [
    "TRUST",
    "check_import",
    "guarded_source",
    "is_registered",
    "is_strangers_choice",
    "is_trusting",
    "lies_in_run",
    "reading_stored",
    "refuse_stored",
    "trusting",
]

TRUST = "STILLHOUSE_TRUST"
"""The environment variable that lists folders, as PATH does, in which runs and files may name any code."""


@attrs.frozen
class _Guard:
    """What is read: ``source`` is a folder or file, ``named`` what the person has named herself; None: it is trusted."""

    source: str | None
    named: frozenset[str] = frozenset()


_guard: ContextVar[_Guard | None] = ContextVar("stillhouse_guard", default=None)


@contextmanager
def reading_stored(source: str | Path, *, trust: bool = False, named: Iterable[str] = ()) -> Iterator[None]:
    """Look up names among what is registered alone, while the block reads what ``source`` says.

    Args:
        source: the run's folder, or the file.
        trust: whatever it names may be imported, and what is read inside the block with it.
        named: names that the person gave herself, in this call.
    """
    outer = _guard.get()
    if trust or _is_listed(Path(source)):
        inner = _Guard(None)
    elif outer is not None and outer.source is None:
        inner = outer
    else:
        inner = _Guard(str(source), frozenset(named) | (outer.named if outer is not None else frozenset()))
    token = _guard.set(inner)
    try:
        yield
    finally:
        _guard.reset(token)


def trusting(trust: bool = True) -> AbstractContextManager[None]:
    """Let runs and files that are read in the block name any code, where ``trust`` says so; else change nothing."""
    return reading_stored("", trust=True) if trust else nullcontext()


def _is_listed(source: Path) -> bool:
    folders = [Path(part).expanduser().resolve() for part in os.environ.get(TRUST, "").split(os.pathsep) if part]
    return bool(folders) and any(source.resolve().is_relative_to(folder) for folder in folders)


_OF_A_RUN = ("lock.json", "summary.json", "composition.txt", "history.jsonl")
"""Files of a run's folder; a stranger's may lack any of them."""


def lies_in_run(recipe: str | Path) -> bool:
    """Whether the recipe's file is one that a run has written, in its folder, and not one that somebody wrote."""
    file = Path(recipe)
    if not file.is_file():
        return False
    weights = (file.parent / "checkpoints").glob("*.pt")
    return any(map(os.path.lexists, map(file.with_name, _OF_A_RUN))) or any(
        path.name.startswith(("best_", "last_")) for path in weights
    )


def is_trusting(source: Path | None = None) -> bool:
    """Whether the person has said that what is read may name any code; with ``source``, or has listed a folder above it."""
    guard = _guard.get()
    return (guard is not None and guard.source is None) or (source is not None and _is_listed(source))


def guarded_source() -> str | None:
    """The folder or file that is read and may name registered things alone; None where any name may be imported."""
    guard = _guard.get()
    return None if guard is None else guard.source


def is_strangers_choice(name: str) -> bool:
    """Whether what is read, and not the person herself, has named ``name``, and is not trusted."""
    guard = _guard.get()
    return guard is not None and guard.source is not None and name not in guard.named


def check_import(path: str, where: str, group: Group | None) -> None:
    """Refuse a path that a stored recipe names, and that no installed package registers.

    Args:
        path: ``package.module:attribute``.
        where: the recipe's key, for the fault.
        group: what it would be one of; None: nothing of the kind is registered.

    Raises:
        StillhouseError: it may not be imported.
    """
    guard = _guard.get()
    if guard is None or guard.source is None or path in guard.named:
        return
    if group is None or not is_registered(group, path):
        refuse_stored(f"{path!r} is code that no installed package registers", where)


def refuse_stored(what: str, where: str) -> None:
    """Refuse what would run code of a stored recipe's choice; do nothing where such may be run.

    Raises:
        StillhouseError: ``what``, with how to allow it.
    """
    source = guarded_source()
    if source is not None:
        raise StillhouseError(
            f"{what}, and is not run because {source} says so",
            where=where,
            hint=f"if you trust where it comes from: --trust, trust=True from Python, or its folder in {TRUST}",
        )


def is_registered(group: Group, path: str) -> bool:
    """Whether ``path`` is the target of an entry point of ``group``, or the same name in a package that holds the target."""
    module, _, attribute = path.partition(":")
    for found in installed(group):
        own, _, name = "".join(found.target.partition("[")[0].split()).partition(":")
        if name == attribute and attribute and (own == module or own.startswith(f"{module}.")):
            return True
    return False
