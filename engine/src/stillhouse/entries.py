"""Entry points: what installed distributions bring by name, found without an import and loaded one by one.

Plugins, tasks, models, data sets, commands, observers and loggers are looked up alike. Nothing that is broken harms anything else: it is
an error where it is asked for, and ``stillhouse plugins --check`` names it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any

import attrs
from packaging.utils import canonicalize_name

from stillhouse.errors import StillhouseError, did_you_mean

__all__ = [
    "COMMANDS",
    "DATA",
    "GROUPS",
    "MODELS",
    "OBSERVERS",
    "PLUGINS",
    "TASKS",
    "Group",
    "Installed",
    "error_text",
    "find",
    "find_named",
    "find_scheme",
    "installed",
    "load_entry",
    "misplaced",
    "nearest",
]

_PREFIX = "stillhouse"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_VALUE = re.compile(r"[\w.]+(\s*:\s*[\w.]+)?\s*(\[.*\])?")


@attrs.frozen
class Group:
    """A group of entry points.

    Attributes:
        name: as a distribution's metadata has it: ``stillhouse.plugins``.
        noun: one of its members, in messages.
    """

    name: str
    noun: str


PLUGINS = Group("stillhouse.plugins", "plugin")
TASKS = Group("stillhouse.tasks", "task")
MODELS = Group("stillhouse.models", "model")
DATA = Group("stillhouse.data", "data set")
COMMANDS = Group("stillhouse.commands", "command")
OBSERVERS = Group("stillhouse.observers", "observer")
LOGGERS = Group("stillhouse.loggers", "logger")

GROUPS = (PLUGINS, TASKS, MODELS, DATA, COMMANDS, OBSERVERS, LOGGERS)


@attrs.frozen
class Installed:
    """An entry point as the metadata of its distribution describes it; nothing of it has been imported.

    Attributes:
        use: the entry point's name, by which recipes use it.
        target: ``module:Class``.
        distribution: the distribution that brings it.
        version: that distribution's version.
        summary: that distribution's one-line summary.
        entry: the entry point; None for a class that a recipe names by its import path.
    """

    use: str
    target: str
    distribution: str
    version: str
    summary: str
    entry: EntryPoint | None = attrs.field(repr=False, eq=False)

    @property
    def origin(self) -> str:
        """The distribution and its version."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def readme(self) -> str:
        """The distribution's long description: its README, as packages are built."""
        dist = self.entry.dist if self.entry is not None else None
        return str(dist.metadata.json.get("description", "")).strip() if dist is not None else ""


def installed(group: Group = PLUGINS) -> list[Installed]:
    """Every member of ``group``, by name and distribution; imports neither torch nor any of them."""
    return [found for name, found in _all() if name == group.name]


def misplaced() -> list[tuple[str, Installed]]:
    """Entry points in groups that look like ours and that nobody reads, each with its group's name."""
    ours = set(_group_names())
    return [(name, found) for name, found in _all() if name.split(".")[0] == _PREFIX and name not in ours]


def _group_names() -> Iterable[str]:
    return (group.name for group in GROUPS)


def _all() -> tuple[tuple[str, Installed], ...]:
    """The entry points of every group that begins with our name, with the group's name."""
    return _scan(tuple((folder, _changed_at(folder)) for folder in sys.path))


def _changed_at(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns  # noqa: PTH116 - asked for each folder whenever a name is looked up
    except OSError:
        return 0


@lru_cache(maxsize=4)  # a recipe's own folder is on the path for a while
def _scan(_path: tuple[tuple[str, int], ...]) -> tuple[tuple[str, Installed], ...]:
    """Read the metadata of all distributions, some 5 ms; anew once ``sys.path`` or a folder on it has changed."""
    every = entry_points()
    described: dict[int, tuple[str, str, str]] = {}
    found = []
    for group in sorted(name for name in every.groups if name.startswith(_PREFIX)):
        for entry in every.select(group=group):
            if id(entry.dist) not in described:
                described[id(entry.dist)] = _describe(entry.dist)
            found.append((group, Installed(entry.name, entry.value, *described[id(entry.dist)], entry)))
    return tuple(sorted(found, key=lambda item: (item[1].use, item[1].distribution)))


def _describe(dist: Distribution | None) -> tuple[str, str, str]:
    """A distribution's name, version and summary; empty what it lacks: half-removed packages have entry points and no name."""
    if dist is None:
        return "", "", ""
    try:
        metadata = dist.metadata  # parsed anew whenever it is asked for
    except FileNotFoundError:
        # importlib_metadata, whose finder replaces the standard one once it is imported, gives no empty metadata.
        return "", "", ""
    name, version, summary = (
        (metadata[key] or "") if key in metadata else "" for key in ("Name", "Version", "Summary")
    )
    return name, version, summary


def find(group: Group, name: str, where: str = "") -> Installed:
    """The member of ``group`` called ``name``: the entry point's name, or ``DISTRIBUTION:NAME``.

    Args:
        group: the group.
        name: the name.
        where: the recipe's key, for the fault.

    Raises:
        StillhouseError: unknown (with the nearest names), or brought by two distributions.
    """
    of_distribution = find_named(group, name)
    if of_distribution is not None:
        return of_distribution
    every = installed(group)
    candidates = [p for p in every if p.use == name]
    if not candidates:
        what = f"no installed {group.noun} is called {name!r}"
        raise StillhouseError(what, where=where, hint=_not_installed(group, name, every))
    if len(candidates) > 1:
        owners = " and ".join(p.distribution for p in candidates)
        choices = " or ".join(repr(f"{p.distribution}:{name}") for p in candidates)
        raise StillhouseError(f"the {group.noun} {name!r} is brought by {owners}", where=where, hint=f"write {choices}")
    return candidates[0]


def find_named(group: Group, name: str) -> Installed | None:
    """The member that ``DISTRIBUTION:NAME`` means; None where no such distribution brings it."""
    distribution, colon, use = name.partition(":")
    if not colon:
        return None
    wanted = canonicalize_name(distribution)
    every = (p for p in installed(group) if p.use == use)
    return next((p for p in every if canonicalize_name(p.distribution) == wanted), None)


def find_scheme(group: Group, text: str, where: str = "") -> tuple[Installed, str] | None:
    """The member that ``NAME``, ``NAME:REST`` or ``DISTRIBUTION:NAME:REST`` begins with, and the rest; None where none does.

    Raises:
        StillhouseError: two distributions bring it.
    """
    first, _, rest = text.partition(":")
    second, _, last = rest.partition(":")
    of_distribution = find_named(group, f"{first}:{second}")
    if of_distribution is not None:
        return of_distribution, last
    if any(p.use == first for p in installed(group)):
        return find(group, first, where), rest
    return None


def nearest(group: Group, text: str) -> str:
    """``did you mean 'folder'?`` for what ``text`` begins with; empty where no member of ``group`` is near."""
    near = did_you_mean(text.partition(":")[0], {p.use for p in installed(group)})
    return near if near.startswith("did you mean") else ""


def _not_installed(group: Group, name: str, every: Sequence[Installed]) -> str:
    for other, found in misplaced():
        if found.use == name:
            return f"{found.origin} brings it in the group {other!r}: {did_you_mean(other, _group_names(), 1)}"
    near = did_you_mean(name, {p.use for p in every})
    if near.startswith("did you mean") or group is not PLUGINS:
        return near
    package = f"is its package installed, stillhouse-{name} perhaps?"
    return f"{package} {near}" if near else package


def load_entry(found: Installed, group: Group, where: str = "") -> Any:
    """Import what the entry point leads to.

    Raises:
        StillhouseError: its name or value has not the form of one, or the import raises.
    """
    assert found.entry is not None  # only what is named by an import path has none
    what, hint = f"the {group.noun} {found.use!r}", f"from {found.origin}"
    if not _NAME.fullmatch(found.use):
        what += " has an entry point whose name must be letters, digits, - and _, a letter first"
        raise StillhouseError(what, where=where, hint=hint)
    if not _VALUE.fullmatch(found.target):
        what += f" has the entry point {found.target!r}, which must be package.module:attribute"
        raise StillhouseError(what, where=where, hint=hint)
    try:
        return found.entry.load()
    except (Exception, SystemExit) as error:  # importing foreign code can raise anything; it is reported
        text = f"{what} cannot be imported: {_import_text(found, error)}"
        raise StillhouseError(text, where=where, hint=f"{hint}; see `stillhouse plugins --check`") from error


def _import_text(found: Installed, error: BaseException) -> str:
    """What an import raised, with the nearest names where an attribute is missing."""
    module = sys.modules.get(found.target.partition(":")[0].strip())
    if not isinstance(error, AttributeError) or error.obj is not module or module is None:
        return error_text(error)
    near = did_you_mean(str(error.name), (name for name in dir(module) if not name.startswith("_")))
    return f"module {module.__name__!r} has no attribute {error.name!r}" + (f", {near}" if near else "")


def error_text(error: BaseException) -> str:
    """An exception in one line."""
    if isinstance(error, StillhouseError):
        return "; ".join(str(fault) for fault in error.faults)
    return f"{type(error).__name__}: {error}"
