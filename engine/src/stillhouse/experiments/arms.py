"""The arms of an ablation: all plugins, none, each left out, each alone, and the cells of a grid."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import attrs

from stillhouse.config.names import default_name
from stillhouse.config.recipe import Recipe
from stillhouse.contract.plugin import CHANGEABLE
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, raise_faults
from stillhouse.experiments.grid import Axis, apply_cell, explain_cell, format_cell, make_cells
from stillhouse.registry.order import CLASSES, ENGINE_CAPABILITIES, Active
from stillhouse.registry.plugins import activate, plugins_in_use

__all__ = ["Arm", "Check", "hash_arm", "make_arms", "name_arms", "resolve"]

Kind = Literal["none", "full", "without", "only", "grid"]

Check = Callable[[Recipe], None]
"""Builds a run without training it; raises StillhouseError when it cannot be built."""


@attrs.frozen
class Arm:
    """One variant of the recipe.

    Attributes:
        name: ``full``, ``none``, ``without-projector``, ``only-features``, or a cell's settings.
        kind: the kind of arm that the name says.
        recipe: with the arm's plugins; its seed is that of the ablated recipe.
        settings: the grid's values, by key.
        group: the settings of keys other than plugins' options: arms are compared within their group.
        reason: why more plugins were left out, or added, than its name says.
        also: other arms that are this very run, each with its reason.
        merged: their names.
    """

    name: str
    kind: Kind
    recipe: Recipe
    settings: dict[str, str] = attrs.field(factory=dict)
    group: str = ""
    reason: str = ""
    also: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()

    @property
    def plugins(self) -> tuple[str, ...]:
        """The names of its plugins, in the list's order."""
        return tuple(str(table["name"]) for table in self.recipe.plugins)


def hash_arm(recipe: Recipe) -> str:
    """Hash everything that decides a run's result but its seed: runs of one arm share it."""
    return attrs.evolve(recipe, run=attrs.evolve(recipe.run, seed=0)).digest()


def resolve(recipe: Recipe) -> Recipe:
    """Return the recipe with every plugin's name and options written out, as in a run's folder.

    Raises:
        StillhouseError: an invalid plugin list.
    """
    actives = plugins_in_use(recipe.plugins, recipe.base)
    activate(actives, has_teacher=recipe.teacher is not None)
    return _set_plugins(recipe, actives)


def name_arms(recipe: Recipe, *, leave_one_out: bool, one_at_a_time: bool, axes: Sequence[Axis] = ()) -> list[str]:
    """Name every arm that is asked for, in order, before it is known which of them are one run or cannot be built.

    Args:
        recipe: the recipe to ablate, its list of plugins resolved or not.
        leave_one_out: see :func:`make_arms`, as for the others.
        one_at_a_time: likewise.
        axes: likewise.

    Raises:
        StillhouseError: a setting that no recipe has.
    """
    found: list[str] = []
    for settings in make_cells([axis for axis in axes if not axis.of_plugin]):
        base = apply_cell(recipe, settings)
        names = ["none", "full", *(f"{kind}-{name}" for kind, name in _list_parts(base, leave_one_out, one_at_a_time))]
        inner = [axis for axis in axes if axis.of_plugin]
        names += [format_cell(cell) for cell in (make_cells(inner) if inner else [])]
        found += [_name_within(format_cell(settings), name) for name in names]
    return list(dict.fromkeys(found))


def _list_parts(
    recipe: Recipe, leave_one_out: bool, one_at_a_time: bool
) -> list[tuple[Literal["only", "without"], str]]:
    """The arms with fewer plugins, by kind and plugin; a list of one has none but the empty list."""
    names = [str(table.get("name") or default_name(str(table.get("use", "")))) for table in recipe.plugins]
    if len(names) < 2:
        return []
    found: list[tuple[Literal["only", "without"], str]] = [("only", name) for name in names if one_at_a_time]
    return found + [("without", name) for name in names if leave_one_out]


def _name_within(group: str, name: str) -> str:
    return f"{group},{name}" if group else name


def make_arms(
    recipe: Recipe, *, leave_one_out: bool, one_at_a_time: bool, axes: Sequence[Axis] = (), check: Check | None = None
) -> list[Arm]:
    """Make the arms: ``none``, those asked for and ``full``, for each combination of the grid's keys that are not plugins'.

    Two arms that are the same run become one. Leaving out a plugin leaves out those that require it; a plugin alone
    comes with those that it requires. What a plugin needs of another without saying so (a projector between features
    of two widths) shows when an arm cannot be built: then the plugin is left out too, or the other added. An arm that
    cannot be built either way is left out with a warning.

    Args:
        recipe: the recipe to ablate.
        leave_one_out: an arm without each plugin.
        one_at_a_time: an arm with each plugin alone.
        axes: the grid. Options of plugins, and switches of them, vary the full list.
        check: raises for an arm that cannot be built.

    Raises:
        StillhouseError: the full list or a cell of the grid cannot be built; with the faults of all.
    """
    outer = [axis for axis in axes if not axis.of_plugin]
    inner = [axis for axis in axes if axis.of_plugin]
    faults = _check_values(recipe, axes)
    raise_faults(faults)
    arms: list[Arm] = []
    for settings in make_cells(outer):
        group = format_cell(settings)
        try:
            base = resolve(apply_cell(recipe, settings))
            if check is not None:
                check(base)
        except StillhouseError as error:
            faults += error.within(group).faults if group else error.faults
            continue
        made: list[Arm] = [Arm("none", "none", _set_plugins(base, ())), Arm("full", "full", base)]
        parts = _Parts(base, check)
        for kind, name in _list_parts(base, leave_one_out, one_at_a_time):
            arm = parts.only(name) if kind == "only" else parts.without(name)
            made += [] if arm is None else [arm]
        for cell in make_cells(inner) if inner else []:
            try:
                changed = resolve(apply_cell(base, cell))
                if check is not None and hash_arm(changed) != hash_arm(base):
                    check(changed)
            except StillhouseError as error:
                faults += explain_cell(error, axes).within(format_cell({**settings, **cell})).faults
            else:
                made.append(Arm(format_cell(cell), "grid", changed, settings=cell))
        for arm in _merge_equal(made):
            name, merged = _name_within(group, arm.name), tuple(_name_within(group, other) for other in arm.merged)
            told = {**settings, **arm.settings}
            arms.append(attrs.evolve(arm, name=name, group=group, settings=told, merged=merged))
    raise_faults(faults)
    return arms


def _check_values(recipe: Recipe, axes: Sequence[Axis]) -> list[Fault]:
    """Return the faults of single values of a grid, once for each, and not for every cell that has it."""
    faults: list[Fault] = []
    for axis in axes:
        for value in () if axis.is_switch else axis.values:
            try:
                resolve(apply_cell(recipe, {axis.key: value}))
            except StillhouseError as error:
                faults += error.within(f"--grid {format_cell({axis.key: value})}").faults
    return faults


class _Parts:
    """Makes lists with fewer plugins of one recipe's."""

    def __init__(self, recipe: Recipe, check: Check | None) -> None:
        self._recipe, self._check = recipe, check
        self._actives = plugins_in_use(recipe.plugins, recipe.base)
        self._has_teacher = recipe.teacher is not None

    def without(self, name: str) -> Arm | None:
        """Return the arm without ``name`` and without the plugins that cannot be without it."""
        gone, reasons = [name], list[str]()
        while True:
            kept = [active for active in self._actives if active.name not in gone]
            unmet = _find_unmet(kept, self._has_teacher)
            if unmet:
                reasons += [f"{active.name} requires {need}" for active, need in unmet]
                gone += [active.name for active, _ in unmet]
                continue
            fault = self._find_fault({active.name for active in kept})
            if fault is None:
                reason = f"without {', '.join(dict.fromkeys(gone[1:]))} too: {'; '.join(reasons)}" if reasons else ""
                return Arm(f"without-{name}", "without", _set_plugins(self._recipe, kept), reason=reason)
            stuck = re.match(r"plugin '([^']+)'", fault.where)
            if stuck is None or stuck[1] not in {active.name for active in kept}:
                _warn_left_out(f"without {name}", fault)
                return None
            reasons.append(_shorten(fault))
            gone.append(stuck[1])

    def only(self, name: str) -> Arm | None:
        """Return the arm of ``name`` and the plugins it requires; one plugin more where these cannot be built without it."""
        chosen, reasons = {name}, list[str]()
        while unmet := _find_unmet([a for a in self._actives if a.name in chosen], self._has_teacher):
            for active, need in unmet:
                reasons.append(f"{active.name} requires {need}")
                chosen |= {a.name for a in self._actives if need in (a.use, a.name, *a.plugin.provides)}
        fault = self._find_fault(chosen)
        if fault is not None:
            further = [a.name for a in self._actives if a.name not in chosen]
            more = next((other for other in further if self._find_fault({*chosen, other}) is None), None)
            if more is None:
                _warn_left_out(f"only {name}", fault)
                return None
            chosen.add(more)
            reasons.append(_shorten(fault))
        kept = [active for active in self._actives if active.name in chosen]
        others = [active.name for active in kept if active.name != name]
        reason = f"with {', '.join(others)}: {'; '.join(dict.fromkeys(reasons))}" if others else ""
        return Arm(f"only-{name}", "only", _set_plugins(self._recipe, kept), reason=reason)

    def _find_fault(self, names: set[str]) -> Fault | None:
        """Return the fault that keeps the run with these plugins from being built; None where it can be built."""
        if self._check is None or not names:
            return None
        try:
            self._check(_set_plugins(self._recipe, [active for active in self._actives if active.name in names]))
        except StillhouseError as error:
            return error.faults[0]
        return None


def _warn_left_out(arm: str, fault: Fault) -> None:
    warnings.warn(f"the arm {arm!r} cannot be built and is left out: {fault}", StillhouseWarning, stacklevel=4)


def _shorten(fault: Fault) -> str:
    """Shorten a fault: without its hint and without shapes."""
    plugin = re.match(r"plugin '([^']+)'", fault.where)
    what = re.sub(r" \(\d[\d, ]*\)", "", fault.what.partition(": ")[0])
    return (f"{plugin[1]}: " if plugin else "") + what


def _find_unmet(actives: Sequence[Active], has_teacher: bool) -> list[tuple[Active, str]]:
    # What is of the batch no plugin brings: an arm with fewer plugins has it where the whole list has.
    provided = {CLASSES, *CHANGEABLE, *(ENGINE_CAPABILITIES if has_teacher else ())}
    for active in actives:
        provided |= {active.use, active.name, *active.plugin.provides}
    return [(active, need) for active in actives for need in active.plugin.requires if need not in provided]


def _set_plugins(recipe: Recipe, actives: Sequence[Active]) -> Recipe:
    give_terms = any(hasattr(a.plugin, "losses") for a in actives)
    return recipe.with_plugins([a.table for a in actives], give_terms=give_terms)


def _merge_equal(arms: Sequence[Arm]) -> list[Arm]:
    """Merge arms that are the same run into the first one, which lists the others."""
    found: dict[str, Arm] = {}
    for arm in arms:
        key = hash_arm(arm.recipe)
        if key not in found:
            found[key] = arm
        else:
            told = f"{arm.name} ({arm.reason})" if arm.reason else arm.name
            settings = found[key].settings or arm.settings
            also, merged = (*found[key].also, told), (*found[key].merged, arm.name)
            found[key] = attrs.evolve(found[key], also=also, merged=merged, settings=settings)
    return list(found.values())
