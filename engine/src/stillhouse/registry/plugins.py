"""Plugins by name: loaded, and made the active list of a run.

Installed is not active: only what a recipe lists runs.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from stillhouse.config.names import default_name, to_snake_case
from stillhouse.config.references import import_object
from stillhouse.config.structure import structure
from stillhouse.contract import VERSION
from stillhouse.contract.plugin import Plugin, renamed
from stillhouse.entries import PLUGINS, Installed, find, find_named, installed, load_entry
from stillhouse.errors import Fault, StillhouseError, UnknownKindWarning, did_you_mean, raise_faults
from stillhouse.registry.order import ENGINE_CAPABILITIES, Active, check_needs, order
from stillhouse.schedule import Schedule
from stillhouse.version import __version__

__all__ = ["activate", "from_instances", "kind_of", "load", "load_installed", "plugins_in_use"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def load(use: str, where: str = "", base: Path | None = None) -> tuple[type[Plugin], Installed]:
    """Import the plugin that recipes call ``use``: an installed one's name, or ``package.module:Class``.

    Args:
        use: the name, ``DISTRIBUTION:NAME`` where several distributions bring one, or the path.
        where: the recipe's key, for the fault.
        base: the recipe's folder, beside which the module of a path may lie.

    Raises:
        StillhouseError: unknown (with the nearest names), brought by two distributions, broken, or made for another
            version of the contract.
    """
    if ":" not in use or find_named(PLUGINS, use) is not None:
        found = find(PLUGINS, use, where)
        return load_installed(found, where), found
    cls = import_object(use, where, base, PLUGINS)
    found = Installed(use, use, "", _source_version(cls), "", None)
    _check_class(cls, found, where)
    return cls, found


def load_installed(found: Installed, where: str = "") -> type[Plugin]:
    """Import a plugin that a distribution brings.

    Raises:
        StillhouseError: it is broken, or made for another version of the contract.
    """
    cls = load_entry(found, PLUGINS, where)
    _check_class(cls, found, where)
    plugin: type[Plugin] = cls
    return plugin


def _source_version(cls: Any) -> str:
    """What stands for the version of a class that no distribution brings: a hash of its file, so that a lock tells edits."""
    file = getattr(sys.modules.get(getattr(cls, "__module__", "")), "__file__", None)
    return "file " + hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file else ""


def _check_class(cls: Any, found: Installed, where: str) -> None:
    fault = _class_fault(cls, found)
    if fault:
        hint = f"from {found.origin}" if found.distribution else ""
        raise StillhouseError(f"the plugin {found.use!r} {fault}", where=where, hint=hint)


def _class_fault(cls: Any, found: Installed) -> str:
    if isinstance(cls, Plugin):
        kind = type(cls)
        return f"is {found.target}, an instance; its class would be {kind.__module__}:{kind.__qualname__}"
    if not (isinstance(cls, type) and issubclass(cls, Plugin)):
        return f"must be a subclass of stillhouse.Plugin, got {found.target}"
    if "__attrs_attrs__" not in vars(cls):
        return f"is {found.target}, which lacks the decorator @plugin"
    return _version_fault(cls)


def _version_fault(cls: type[Plugin]) -> str:
    """What is wrong with the versions of the contract that a class was made for, and which side has to follow."""
    versions = SpecifierSet(cls.engine, prereleases=True)
    if Version(str(VERSION)) in versions:
        return ""
    is_newer = any(Version(str(later)) in versions for later in range(VERSION + 1, VERSION + 100))
    follow = "it is too new: update stillhouse" if is_newer else "it is too old: update the plugin"
    return f"needs version {cls.engine} of the contract, and stillhouse {__version__} has version {VERSION}; {follow}"


def kind_of(cls: type[Plugin]) -> tuple[str, str, str]:
    """``(use, distribution, version)`` of a class handed over from Python: its entry point's, else its name in snake case."""
    for found in installed():
        module, _, attribute = found.target.partition(":")
        if attribute == cls.__qualname__ and module.split(".")[0] == cls.__module__.split(".")[0]:
            return found.use, found.distribution, found.version
    return to_snake_case(cls.__name__), "", ""


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
        actives.append(Active(instance, found.use, index, found.distribution, found.version, named=use))
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
        Fault(f"plugins[{active.listed}].weight{key}", f"must be finite and >= 0, got {number}")
        for key, number in numbers.items()
        if not 0.0 <= number < math.inf
    ]


def _warn_unknown_kinds(plugins: Sequence[Active]) -> None:
    known = {*ENGINE_CAPABILITIES, *(p.use for p in installed())}
    known |= {x for a in plugins for x in (a.use, a.name, *a.plugin.provides)}
    for active in plugins:
        for kind in (*active.plugin.before, *active.plugin.after, *active.plugin.conflicts):
            near = did_you_mean(kind, known, 1)
            if kind not in known and near.startswith("did you mean"):
                warnings.warn(f"plugin {active.name!r} names a kind {kind!r}: {near}", UnknownKindWarning, stacklevel=2)


def from_instances(instances: Sequence[Plugin]) -> list[Active]:
    """Plugins handed over from Python as actives, each named by its kind where it has no name."""
    actives = []
    for index, instance in enumerate(instances):
        if not isinstance(instance, Plugin) or "__attrs_attrs__" not in vars(type(instance)):
            hint = "an instance of a class decorated with @plugin"
            if isinstance(instance, Plugin):
                hint = f"write `@plugin` above `class {type(instance).__name__}(...)`, a subclass of a plugin too"
            raise StillhouseError(f"must be a plugin, got {instance!r}", where=f"plugins[{index}]", hint=hint)
        if fault := _version_fault(type(instance)):
            raise StillhouseError(f"the plugin {type(instance).__name__} {fault}", where=f"plugins[{index}]")
        use, distribution, version = kind_of(type(instance))
        alone = sum(found.use == use for found in installed()) < 2
        named = use if alone else f"{distribution}:{use}"
        actives.append(Active(renamed(instance, instance.name or use), use, index, distribution, version, named=named))
    return actives
