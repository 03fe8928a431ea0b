"""The arms of an ablation: the whole list, none of it, each plugin left out, each alone, and the cells of a grid."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import attrs

from stillhouse.config.overrides import apply_override
from stillhouse.config.recipe import Recipe
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, raise_faults
from stillhouse.experiments.grid import Axis, cells
from stillhouse.registry.order import Active
from stillhouse.registry.plugins import activate, plugins_in_use

__all__ = ["Arm", "Check", "identity", "make_arms", "resolved"]

Kind = Literal["none", "full", "without", "only", "grid"]

Check = Callable[[Recipe], None]
"""Builds a run without training it; raises StillhouseError when it cannot be built."""


@attrs.frozen
class Arm:
    """One way to run the recipe.

    Attributes:
        name: ``full``, ``none``, ``without-projector``, ``only-features``, or a cell's settings.
        kind: which of these it is.
        recipe: with the plugin list as it runs; its seed is that of the recipe ablated.
        settings: what the grid changed, by key.
        group: the settings of keys that are no plugin's options: arms are compared within their group.
        reason: why more was left out, or added, than its name says.
        also: other arms that turned out to be this very run, each with its reason.
    """

    name: str
    kind: Kind
    recipe: Recipe
    settings: dict[str, str] = attrs.field(factory=dict)
    group: str = ""
    reason: str = ""
    also: tuple[str, ...] = ()

    @property
    def plugins(self) -> tuple[str, ...]:
        """The names of its plugins, in the list's order."""
        return tuple(str(table["name"]) for table in self.recipe.plugins)


def identity(recipe: Recipe) -> str:
    """A hash of all that decides a run's result but its seed: what runs of one arm share."""
    return attrs.evolve(recipe, run=attrs.evolve(recipe.run, seed=0)).digest()


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with every plugin's name and options written out, as a run's folder has it.

    Raises:
        StillhouseError: what is wrong with its plugin list.
    """
    actives = plugins_in_use(recipe.plugins, recipe.base)
    activate(actives, has_teacher=recipe.teacher is not None)
    return _with(recipe, actives)


def make_arms(
    recipe: Recipe, *, leave_one_out: bool, one_at_a_time: bool, axes: Sequence[Axis] = (), check: Check | None = None
) -> list[Arm]:
    """The arms: for each combination of the grid's settings that are no plugin's, ``none``, the arms asked for, ``full``.

    Two arms that are the same run become one. Leaving out a plugin leaves out those that require it; a plugin alone
    comes with those that it requires. What a plugin needs of another without saying so (a projector between features
    of two widths) shows when an arm cannot be built: then the plugin is left out too, or the other added. An arm that
    cannot be built either way is left out with a warning.

    Args:
        recipe: what is ablated.
        leave_one_out: an arm without each plugin.
        one_at_a_time: an arm with each plugin alone.
        axes: the grid. Options of plugins vary the full list.
        check: tells whether an arm can be built.

    Raises:
        StillhouseError: the full list or a cell of the grid cannot be built; with the faults of all.
    """
    outer = [axis for axis in axes if not axis.of_plugin]
    inner = [axis for axis in axes if axis.of_plugin]
    faults = _wrong_values(recipe, axes)
    raise_faults(faults)
    arms: list[Arm] = []
    for settings in cells(outer):
        group = _label(settings)
        try:
            base = resolved(_changed(recipe, settings))
            if check is not None:
                check(base)
        except StillhouseError as error:
            faults += error.within(group).faults if group else error.faults
            continue
        made: list[Arm] = [Arm("none", "none", attrs.evolve(base, plugins=())), Arm("full", "full", base)]
        if len(base.plugins) > 1:
            parts = _Parts(base, check)
            names = made[1].plugins
            found = [parts.only(name) for name in names] if one_at_a_time else []
            found += [parts.without(name) for name in names] if leave_one_out else []
            made += [arm for arm in found if arm is not None]
        for cell in cells(inner) if inner else []:
            try:
                changed = resolved(_changed(base, cell))
                if check is not None and identity(changed) != identity(base):
                    check(changed)
            except StillhouseError as error:
                faults += error.within(_label({**settings, **cell})).faults
            else:
                made.append(Arm(_label(cell), "grid", changed, settings=cell))
        for arm in _distinct(made):
            name = f"{group},{arm.name}" if group else arm.name
            arms.append(attrs.evolve(arm, name=name, group=group, settings={**settings, **arm.settings}))
    raise_faults(faults)
    return arms


def _wrong_values(recipe: Recipe, axes: Sequence[Axis]) -> list[Fault]:
    """What is wrong with single values of a grid: said once for each, and not for every cell that has it."""
    faults: list[Fault] = []
    for axis in axes:
        for value in axis.values:
            try:
                resolved(_changed(recipe, {axis.key: value}))
            except StillhouseError as error:
                faults += error.within(f"--grid {_label({axis.key: value})}").faults
    return faults


class _Parts:
    """Makes lists with fewer plugins of one recipe's."""

    def __init__(self, recipe: Recipe, check: Check | None) -> None:
        self._recipe, self._check = recipe, check
        self._actives = plugins_in_use(recipe.plugins, recipe.base)
        self._has_teacher = recipe.teacher is not None

    def without(self, name: str) -> Arm | None:
        """All but ``name`` and whatever cannot be without it."""
        gone, reasons = [name], list[str]()
        while True:
            kept = [active for active in self._actives if active.name not in gone]
            unmet = _unmet(kept, self._has_teacher)
            if unmet:
                reasons += [f"{active.name} requires {need}" for active, need in unmet]
                gone += [active.name for active, _ in unmet]
                continue
            fault = self._fault({active.name for active in kept})
            if fault is None:
                reason = f"without {', '.join(dict.fromkeys(gone[1:]))} too: {'; '.join(reasons)}" if reasons else ""
                return Arm(f"without-{name}", "without", _with(self._recipe, kept), reason=reason)
            stuck = re.match(r"plugin '([^']+)'", fault.where)
            if stuck is None or stuck[1] not in {active.name for active in kept}:
                _left_out(f"without {name}", fault)
                return None
            reasons.append(_short(fault))
            gone.append(stuck[1])

    def only(self, name: str) -> Arm | None:
        """``name`` and what it requires; one plugin more where these cannot be built without it."""
        chosen, reasons = {name}, list[str]()
        while unmet := _unmet([a for a in self._actives if a.name in chosen], self._has_teacher):
            for active, need in unmet:
                reasons.append(f"{active.name} requires {need}")
                chosen |= {a.name for a in self._actives if need in (a.use, a.name, *a.plugin.provides)}
        fault = self._fault(chosen)
        if fault is not None:
            further = [a.name for a in self._actives if a.name not in chosen]
            more = next((other for other in further if self._fault({*chosen, other}) is None), None)
            if more is None:
                _left_out(f"only {name}", fault)
                return None
            chosen.add(more)
            reasons.append(_short(fault))
        kept = [active for active in self._actives if active.name in chosen]
        others = [active.name for active in kept if active.name != name]
        reason = f"with {', '.join(others)}: {'; '.join(dict.fromkeys(reasons))}" if others else ""
        return Arm(f"only-{name}", "only", _with(self._recipe, kept), reason=reason)

    def _fault(self, names: set[str]) -> Fault | None:
        """What keeps the run with these plugins from being built."""
        if self._check is None or not names:
            return None
        try:
            self._check(_with(self._recipe, [active for active in self._actives if active.name in names]))
        except StillhouseError as error:
            return error.faults[0]
        return None


def _left_out(arm: str, fault: Fault) -> None:
    warnings.warn(f"there is no arm {arm!r}, which cannot be built: {fault}", StillhouseWarning, stacklevel=4)


def _short(fault: Fault) -> str:
    """A fault without its hint and without what it says of single shapes."""
    plugin = re.match(r"plugin '([^']+)'", fault.where)
    what = re.sub(r" \(\d[\d, ]*\)", "", fault.what.partition(": ")[0])
    return (f"{plugin[1]}: " if plugin else "") + what


def _unmet(actives: Sequence[Active], has_teacher: bool) -> list[tuple[Active, str]]:
    provided = {"teacher"} if has_teacher else set()
    for active in actives:
        provided |= {active.use, active.name, *active.plugin.provides}
    return [(active, need) for active in actives for need in active.plugin.requires if need not in provided]


def _with(recipe: Recipe, actives: Sequence[Active]) -> Recipe:
    return attrs.evolve(recipe, plugins=tuple(a.table for a in actives))


def _changed(recipe: Recipe, settings: dict[str, str]) -> Recipe:
    if not settings:
        return recipe
    tables = recipe.to_dict()
    for key, value in settings.items():
        apply_override(tables, f"{key}={value}")
    return Recipe.from_dict(tables, base=recipe.base)


def _label(settings: dict[str, str]) -> str:
    return ",".join(f"{key.removeprefix('plugins.')}={value}" for key, value in settings.items())


def _distinct(arms: Sequence[Arm]) -> list[Arm]:
    """One arm of those that are the same run: the first, which knows the others."""
    found: dict[str, Arm] = {}
    for arm in arms:
        key = identity(arm.recipe)
        if key not in found:
            found[key] = arm
        else:
            told = f"{arm.name} ({arm.reason})" if arm.reason else arm.name
            settings = found[key].settings or arm.settings
            found[key] = attrs.evolve(found[key], also=(*found[key].also, told), settings=settings)
    return list(found.values())
