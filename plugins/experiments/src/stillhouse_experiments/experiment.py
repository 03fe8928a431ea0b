"""An experiment: a plan's arms as recipes, the seeds, and what is chosen before it is run."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from stillhouse import Recipe, StillhouseError
from stillhouse.config.overrides import apply_override
from stillhouse.errors import did_you_mean
from stillhouse.experiments.arms import Arm, hash_arm, resolve
from stillhouse.experiments.plan import Plan
from stillhouse_experiments.plan import ArmTable, CurveTable, PlanTables, SettingTable, TuningTable, Values, read_tables

__all__ = ["DATASETS", "Experiment", "Tuning", "read"]

DATASETS = "~/datasets"
"""The folder of data sets, as recipes write it."""


@attrs.frozen
class Tuning:
    """Values that are chosen, on the validation split, before the experiment.

    Attributes:
        seeds: of the runs that choose.
        shared: chosen once for each setting, on its reference.
        arms: chosen by each arm for itself, by the arm's name.
        widen: how many values may be added to those of a key, where the best is at their end.
    """

    seeds: tuple[int, ...]
    shared: Values
    arms: dict[str, Values]
    widen: int = 0


@attrs.frozen
class Experiment:
    """A plan, ready to run.

    Attributes:
        name: the file's stem.
        title: of its table.
        plan: arms and seeds; an arm's group is its setting.
        metric: ``SPLIT/NAME`` that is compared.
        reference: the arm that the others of its setting are compared with.
        pairs: further pairs of arms to compare, the second taken from the first.
        tuning: None where everything is as the recipe says.
        probes: arms that are no runs, and the teacher's layer that is probed.
        axes: files of axes that arms name, and the recipes that they come from.
        order: the names of all arms, as the tables have them.
        curves: drawn of the logged scalars.
        figures: drawn when all runs are there.
    """

    name: str
    title: str
    plan: Plan
    metric: str
    reference: str
    pairs: tuple[tuple[str, str], ...] = ()
    tuning: Tuning | None = None
    probes: tuple[tuple[Arm, str], ...] = ()
    axes: dict[Path, Recipe] = attrs.field(factory=dict)
    order: tuple[str, ...] = ()
    curves: tuple[CurveTable, ...] = ()
    figures: tuple[str, ...] = ()

    def reference_of(self, arm: Arm) -> str:
        """The name of the arm that ``arm`` is compared with."""
        return _within(arm.group, self.reference)

    def with_data(self, root: Path) -> Experiment:
        """The same with its data sets below ``root`` instead of ``~/datasets``."""

        def moved(recipe: Recipe) -> Recipe:
            text = json.dumps(recipe.to_dict())
            for written in (
                DATASETS,
                str(Path(DATASETS).expanduser()),
            ):  # in memory a recipe has the home folder's path
                text = text.replace(written, str(root.resolve()))
            return Recipe.from_dict(json.loads(text), base=recipe.base)

        arms = tuple(attrs.evolve(arm, recipe=moved(arm.recipe)) for arm in self.plan.arms)
        return attrs.evolve(
            self,
            plan=attrs.evolve(self.plan, recipe=moved(self.plan.recipe), arms=arms),
            probes=tuple((attrs.evolve(arm, recipe=moved(arm.recipe)), layer) for arm, layer in self.probes),
            axes={file: moved(recipe) for file, recipe in self.axes.items()},
        )


def read(path: Path, out: Path, seeds: int | None = None, overrides: list[str] | None = None) -> Experiment:
    """The experiment of a plan's file, whose runs go below ``out``.

    Args:
        path: the file.
        out: the folder of the runs of all experiments.
        seeds: how many, instead of the plan's.
        overrides: changes of the plan's recipe, ``KEY=VALUE``, after its own.

    Raises:
        StillhouseError: what is wrong with the file, with a recipe or an arm; arms that are the same run; tuning seeds that
            are reported.
    """
    try:
        return _read(path, read_tables(path), out, seeds, overrides or [])
    except StillhouseError as error:
        raise error.within(str(path)) from None


def _read(path: Path, tables: PlanTables, out: Path, seeds: int | None, overrides: list[str]) -> Experiment:
    folder = path.parent
    base = Recipe.load(folder / tables.recipe, overrides=[*tables.set, *overrides])
    arms: list[Arm] = []
    probes: list[tuple[Arm, str]] = []
    axes: dict[Path, Recipe] = {}
    order: list[str] = []
    tune: dict[str, Values] = {}
    for setting in tables.settings:
        for table in tables.arms:
            if table.axes is not None:
                source = folder / table.axes
                file = (out / "axes" / f"{source.stem}.safetensors").resolve()
                axes[file] = Recipe.load(source)
                table = attrs.evolve(table, set=(*table.set, f"plugins.tcs.axes={file}"))
            arm = _arm(base, table, setting, tables)
            order.append(arm.name)
            if table.probe is not None:
                probes.append((arm, table.probe))
                continue
            arms.append(arm)
            if values := {**(tables.tuning.each if tables.tuning else {}), **table.tune}:
                tune[arm.name] = values
    _check_different(arms)
    groups = [setting.name for setting in tables.settings]
    numbers = tuple(range(base.run.seed, base.run.seed + (seeds or tables.seeds)))
    return Experiment(
        path.stem,
        tables.title,
        Plan(base, tuple(arms), numbers, out / path.stem),
        tables.metric,
        tables.reference,
        tuple((_within(group, a), _within(group, b)) for group in groups for a, b in tables.pairs),
        _tuning(tables.tuning, tune, numbers),
        tuple(probes),
        axes,
        tuple(order),
        tables.curves,
        tables.figures,
    )


def _arm(base: Recipe, table: ArmTable, setting: SettingTable, named: PlanTables) -> Arm:
    """The recipe with the changes of an arm's and a setting's table."""
    tables = base.to_dict()
    if table.plugins is not None:
        tables["plugins"] = _plugins(table.plugins, named.lists)
    teacher = _named(table.teacher, named.teachers) if isinstance(table.teacher, str) else table.teacher
    if teacher is False:
        tables.pop("teacher", None)
    elif teacher is not None:
        tables["teacher"] = teacher
    tables = copy.deepcopy(tables)  # other arms name the same lists: what `set` changes here is this arm's alone
    for override in (*setting.set, *table.set):
        apply_override(tables, override)
    recipe = Recipe.from_dict(tables, base=base.base)
    if not recipe.plugins and table.teacher is None and table.probe is None:
        recipe = attrs.evolve(recipe, teacher=None)  # nobody would look at it
    return Arm(_within(setting.name, table.name), "grid", resolve(recipe), group=setting.name)


def _plugins(
    listed: str | tuple[str | dict[str, Any], ...], lists: Mapping[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for item in [listed] if isinstance(listed, str) else listed:
        found += _named(item, lists) if isinstance(item, str) else [item]
    return found


def _named(name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise StillhouseError(f"nothing is named {name!r}", hint=did_you_mean(name, known))
    return known[name]


def _within(setting: str, arm: str) -> str:
    return f"{setting}: {arm}" if setting else arm


def _check_different(arms: list[Arm]) -> None:
    seen: dict[str, str] = {}
    for arm in arms:
        other = seen.setdefault(hash_arm(arm.recipe), arm.name)
        if other != arm.name:
            raise StillhouseError(f"the arms {other!r} and {arm.name!r} are the same run")


def _tuning(table: TuningTable | None, arms: dict[str, Values], reported: tuple[int, ...]) -> Tuning | None:
    if table is None:
        return None
    if both := sorted(set(table.seeds) & set(reported)):
        raise StillhouseError(f"the seeds {both} would both choose and be reported", where="tuning.seeds")
    return Tuning(table.seeds, table.shared, arms, table.widen)
