"""Finding plugins by entry point, loading them one by one, and making the active list of a run.

Installed is not active: only what a recipe lists runs. A plugin that cannot be imported is reported where it is asked
for and nowhere else.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import attrs
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from stillhouse.config.names import _snake_case, default_name
from stillhouse.config.references import import_object
from stillhouse.config.structure import structure
from stillhouse.contract.plugin import Plugin, renamed
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, did_you_mean, raise_faults
from stillhouse.memo import once
from stillhouse.registry.order import Active, check_needs, order
from stillhouse.schedule import Schedule

__all__ = ["GROUP", "Installed", "activate", "installed", "kind_of", "load", "plugins_in_use"]

GROUP = "stillhouse.plugins"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@attrs.frozen
class Installed:
    """A plugin as the metadata of its distribution describes it; nothing of it has been imported.

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


def installed() -> list[Installed]:
    """Every plugin found, by name; imports neither torch nor any plugin."""
    return list(once(lambda: "installed plugins", _find))


def _find() -> list[Installed]:
    found = []
    for entry in entry_points(group=GROUP):
        dist = entry.dist
        found.append(
            Installed(
                entry.name,
                entry.value,
                dist.name if dist else "",
                dist.version if dist else "",
                (dist.metadata["Summary"] or "") if dist and "Summary" in dist.metadata else "",
                entry,
            )
        )
    return sorted(found, key=lambda p: (p.use, p.distribution))


def load(use: str, where: str = "", base: Path | None = None) -> tuple[type[Plugin], Installed]:
    """Import the plugin that recipes call ``use``: an installed one's name, or ``package.module:Class``.

    Args:
        use: the name or path.
        where: the recipe's key, for the fault.
        base: the recipe's folder, beside which the module of a path may lie.

    Raises:
        StillhouseError: unknown (with the nearest names), brought by two distributions, broken, or made for another
            version of the engine.
    """
    if ":" in use:
        return _load_path(use, where, base)
    every = installed()
    candidates = [p for p in every if p.use == use]
    if not candidates:
        raise StillhouseError(
            f"no installed plugin is called {use!r}",
            where=where,
            hint=_not_installed(use, {p.use for p in every}),
        )
    if len(candidates) > 1:
        owners = " and ".join(p.distribution for p in candidates)
        raise StillhouseError(
            f"the plugin {use!r} is brought by {owners}", where=where, hint="uninstall all but one of them"
        )
    found = candidates[0]
    assert found.entry is not None  # only a path's has none
    try:
        cls = found.entry.load()
    except (Exception, SystemExit) as error:  # importing foreign code can raise anything; it is reported
        raise StillhouseError(
            f"the plugin {use!r} cannot be imported: {_error_text(error)}",
            where=where,
            hint=f"from {found.distribution} {found.version}; see `stillhouse plugins --check`",
        ) from error
    fault = _class_fault(cls, found)
    if fault:
        raise StillhouseError(f"the plugin {use!r} {fault}", where=where)
    return cls, found


def _load_path(use: str, where: str, base: Path | None) -> tuple[type[Plugin], Installed]:
    cls = import_object(use, where, base)
    found = Installed(use, use, "", _source_version(cls), "", None)
    fault = _class_fault(cls, found)
    if fault:
        raise StillhouseError(f"the plugin {use!r} {fault}", where=where)
    return cls, found


def _source_version(cls: Any) -> str:
    """What stands for the version of a class that no distribution brings: a hash of its file, so that a lock tells edits."""
    file = getattr(sys.modules.get(getattr(cls, "__module__", "")), "__file__", None)
    return "file " + hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file else ""


def _not_installed(use: str, known: set[str]) -> str:
    near = did_you_mean(use, known)
    if near.startswith("did you mean"):
        return near
    package = f"is its package installed, stillhouse-{use} perhaps?"
    return f"{package} {near}" if near else package


def _class_fault(cls: Any, found: Installed) -> str:
    from stillhouse.version import __version__

    if not (isinstance(cls, type) and issubclass(cls, Plugin)):
        return f"is {found.target}, which is no subclass of stillhouse.Plugin"
    if "__attrs_attrs__" not in vars(cls):
        return f"is {found.target}, which lacks the decorator @plugin"
    try:
        fits = Version(__version__) in SpecifierSet(cls.engine, prereleases=True)
    except InvalidSpecifier:
        return f"declares engine = {cls.engine!r}, which is no version specifier such as '>=0.1,<2'"
    return "" if fits else f"needs stillhouse {cls.engine}, and this is {__version__}"


def _error_text(error: BaseException) -> str:
    if isinstance(error, StillhouseError):
        return "; ".join(str(fault) for fault in error.faults)
    return f"{type(error).__name__}: {error}"


def kind_of(cls: type[Plugin]) -> tuple[str, str, str]:
    """``(use, distribution, version)`` of a class handed over from Python: its entry point's, else its name in snake case."""
    for found in installed():
        module, _, attribute = found.target.partition(":")
        if attribute == cls.__qualname__ and module.split(".")[0] == cls.__module__.split(".")[0]:
            return found.use, found.distribution, found.version
    return _snake_case(cls.__name__), "", ""


def plugins_in_use(tables: Sequence[Mapping[str, Any]], base: Path | None = None) -> list[Active]:
    """Load and structure the recipe's ``[[plugins]]`` tables; not ordered yet.

    Args:
        tables: as the recipe has them.
        base: the recipe's folder.

    Raises:
        StillhouseError: with the faults of all tables together.
    """
    faults: list[Fault] = []
    actives: list[Active] = []
    for index, table in enumerate(tables):
        where = f"plugins[{index}]"
        options = dict(table)
        use = options.pop("use", None)
        if not isinstance(use, str):
            faults.append(Fault(f"{where}.use", "this key is missing", "the plugin's name, such as 'features'"))
            continue
        try:
            cls, found = load(use, f"{where}.use", base)
            instance: Plugin = structure({**options, "name": options.get("name", default_name(use))}, cls, where)
        except StillhouseError as error:
            faults += [attrs.evolve(f, where=f"{f.where} ({use})") for f in error.faults]
            continue
        actives.append(Active(instance, use, index, found.distribution, found.version))
    raise_faults(faults)
    return actives


def activate(plugins: Sequence[Active], *, has_teacher: bool) -> list[Active]:
    """Check names, needs and conflicts, and order the list.

    Raises:
        StillhouseError: with every fault found.
    """
    faults = []
    for index, active in enumerate(plugins):
        where = f"plugins[{active.listed}].name"
        if not _NAME.fullmatch(active.name):
            faults.append(
                Fault(where, f"{active.name!r} cannot name a plugin", "letters, digits, - and _, a letter first")
            )
        if active.name == "task":
            faults.append(Fault(where, "'task' is the name of the task's own loss", "choose another name"))
        if any(active.name == other.name for other in plugins[:index]):
            faults.append(
                Fault(where, f"two plugins are called {active.name!r}", 'give one of them a name: name = "..."')
            )
        faults += _weight_faults(active)
    faults += check_needs(plugins, has_teacher=has_teacher)
    raise_faults(faults)
    _warn_unknown_kinds(plugins)
    return order(plugins)


def _weight_faults(active: Active) -> list[Fault]:
    weight = getattr(active.plugin, "weight", 0.0)
    numbers = {"": weight} if not isinstance(weight, Schedule) else {".peak": weight.peak, ".final": weight.final}
    return [
        Fault(f"plugins[{active.listed}].weight{key}", f"{number} is no weight", "a finite number from 0 on")
        for key, number in numbers.items()
        if not 0.0 <= number < math.inf
    ]


def _warn_unknown_kinds(plugins: Sequence[Active]) -> None:
    known = {p.use for p in installed()} | {a.use for a in plugins} | {a.name for a in plugins}
    for active in plugins:
        for kind in (*active.plugin.before, *active.plugin.after):
            near = did_you_mean(kind, known, 1)
            if kind not in known and near.startswith("did you mean"):
                warnings.warn(f"{active.name} orders itself against {kind!r}: {near}", StillhouseWarning, stacklevel=2)


def from_instances(instances: Sequence[Plugin]) -> list[Active]:
    """Plugins handed over from Python as actives, each named by its kind where it has no name."""
    actives = []
    for index, instance in enumerate(instances):
        if not isinstance(instance, Plugin) or "__attrs_attrs__" not in vars(type(instance)):
            raise StillhouseError(
                f"{instance!r} is no plugin",
                where=f"plugins[{index}]",
                hint="an instance of a class decorated with @plugin",
            )
        use, distribution, version = kind_of(type(instance))
        actives.append(Active(renamed(instance, instance.name or use), use, index, distribution, version))
    return actives
