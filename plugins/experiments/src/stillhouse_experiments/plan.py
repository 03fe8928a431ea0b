"""A plan's file as typed tables: a recipe, the arms that change it, the seeds, and the values chosen before anything is reported."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import attrs

from stillhouse import StillhouseError
from stillhouse.config.structure import structure
from stillhouse.errors import Fault, did_you_mean, raise_faults
from stillhouse_experiments.figures import FIGURES

__all__ = ["ArmTable", "CurveTable", "PlanTables", "SettingTable", "TuningTable", "Values", "read_tables"]

Values = dict[str, list[Any]]
"""The values to choose from, by key."""


def at_least_one(_: Any, field: attrs.Attribute[Any], value: int | None) -> None:
    """The validator of counts."""
    if value is not None and value < 1:
        raise StillhouseError(f"must be >= 1, got {value}", where=field.alias or field.name)


def _not_negative(_: Any, field: attrs.Attribute[Any], value: int) -> None:
    if value < 0:
        raise StillhouseError(f"must be >= 0, got {value}", where=field.name)


def _not_empty(_: Any, field: attrs.Attribute[Any], value: Values) -> None:
    raise_faults(Fault(f"{field.name}.{key}", "has no value to try") for key, values in value.items() if not values)


def _each_one_of(known: Iterable[str]) -> Callable[[Any, attrs.Attribute[Any], tuple[str, ...]], None]:
    def check(_: Any, field: attrs.Attribute[Any], names: tuple[str, ...]) -> None:
        unknown = [name for name in names if name not in known]
        raise_faults(Fault(field.name, f"unknown name {name!r}", did_you_mean(name, known)) for name in unknown)

    return check


@attrs.frozen(kw_only=True)
class ArmTable:
    """One of a plan's ``[[arms]]``.

    Attributes:
        name: of the arm.
        set: changes of the recipe, ``KEY=VALUE``.
        teacher: a table instead of the recipe's, the name of one under ``[teachers]``, or false.
        plugins: a list instead of the recipe's; a text stands for the list of that name under ``[lists]``.
        tune: values of keys, of which the arm chooses for itself.
        probe: a layer of the teacher: the arm is no run but the accuracy of that layer's linear probe from the run's labels.
        axes: a recipe's file: the plugin tcs gets the axes of that recipe's images.
    """

    name: str
    set: tuple[str, ...] = ()
    teacher: str | Literal[False] | dict[str, Any] | None = None
    plugins: str | tuple[str | dict[str, Any], ...] | None = None
    tune: Values = attrs.field(factory=dict, validator=_not_empty)
    probe: str | None = None
    axes: str | None = None


@attrs.frozen(kw_only=True)
class SettingTable:
    """One of a plan's ``[[settings]]``: every arm runs under each, as ``SETTING: ARM``, and is compared within it.

    Attributes:
        name: of the setting.
        set: changes of the recipe, ``KEY=VALUE``.
    """

    name: str = ""
    set: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class TuningTable:
    """A plan's ``[tuning]``.

    Attributes:
        seeds: of the runs that choose; none of them is reported.
        shared: values of keys, chosen once on the reference and taken for all arms.
        each: values of keys, chosen by every arm for itself, together with those under its ``tune``.
        widen: how many values may be added to those of a key, on the side where the best is at their end, by their own
            ratio.
    """

    seeds: tuple[int, ...]
    shared: Values = attrs.field(factory=dict, validator=_not_empty)
    each: Values = attrs.field(factory=dict, validator=_not_empty)
    widen: int = attrs.field(default=0, validator=_not_negative)


@attrs.frozen(kw_only=True)
class CurveTable:
    """One of a plan's ``[[curves]]``, which the figure ``curves`` draws.

    Attributes:
        tag: a scalar in the runs' TensorBoard files.
        label: of the axis and of the table's column.
        log: whether the axis is logarithmic.
    """

    tag: str
    label: str
    log: bool = False


@attrs.frozen(kw_only=True)
class PlanTables:
    """A plan's file.

    Attributes:
        title: of its table.
        recipe: what the arms change: a file, found from the plan's folder.
        metric: ``SPLIT/NAME``, which is compared.
        reference: the arm that the others are compared with.
        arms: the arms.
        seeds: how many, from the recipe's on.
        set: changes of the recipe, ``KEY=VALUE``.
        pairs: further pairs of arms to compare, the second taken from the first.
        lists: plugin lists by name.
        teachers: teachers by name.
        settings: see :class:`SettingTable`.
        tuning: see :class:`TuningTable`.
        curves: see :class:`CurveTable`.
        figures: drawn when all runs are there, by their names in :data:`stillhouse_experiments.figures.FIGURES`.
    """

    title: str
    recipe: str
    metric: str
    reference: str
    arms: tuple[ArmTable, ...]
    seeds: int = attrs.field(default=5, validator=at_least_one)
    set: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    lists: dict[str, list[dict[str, Any]]] = attrs.field(factory=dict)
    teachers: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    settings: tuple[SettingTable, ...] = (SettingTable(),)
    tuning: TuningTable | None = None
    curves: tuple[CurveTable, ...] = ()
    figures: tuple[str, ...] = attrs.field(default=(), validator=_each_one_of(FIGURES))


def read_tables(path: Path) -> PlanTables:
    """The plan in a file.

    Raises:
        StillhouseError: the file cannot be read, unknown keys and wrong values, names of arms that are not there or there twice.
    """
    try:
        tables: PlanTables = structure(tomllib.loads(path.read_text(encoding="utf-8")), PlanTables)
    except (OSError, UnicodeDecodeError) as error:
        raise StillhouseError(f"cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise StillhouseError(f"must be TOML: {error}") from None
    names = [arm.name for arm in tables.arms]
    named = [("reference", tables.reference), *(("pairs", side) for pair in tables.pairs for side in pair)]
    faults = [
        Fault(where, f"unknown arm {name!r}", did_you_mean(name, names)) for where, name in named if name not in names
    ]
    faults += [Fault("arms", f"two are named {name!r}") for name in dict.fromkeys(names) if names.count(name) > 1]
    settings = [setting.name for setting in tables.settings]
    faults += [
        Fault("settings", f"two are named {name!r}") for name in dict.fromkeys(settings) if settings.count(name) > 1
    ]
    if tables.tuning is not None and (twice := sorted(tables.tuning.shared.keys() & tables.tuning.each.keys())):
        faults.append(Fault(f"tuning.each.{twice[0]}", "is under `shared` as well", "choose it once, or for each arm"))
    if tables.tuning is None and any(arm.tune for arm in tables.arms):
        faults.append(Fault("tuning", "an arm has `tune`, and there is no [tuning]", "[tuning] seeds = [1000, 1001]"))
    raise_faults(faults)
    return tables
