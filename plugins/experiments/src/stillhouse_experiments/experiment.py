"""The files of ``plans/``: a recipe, the arms that change it, the seeds, and what is chosen before anything is reported.

A plan's keys:

- ``title``, of the table; ``recipe``, a file below ``plans/``; ``set``, changes of it as ``--set`` takes them;
- ``metric``, ``SPLIT/NAME``; ``seeds``, how many; ``reference``, the arm that others are compared with; ``pairs``, further pairs;
- ``[[arms]]``, each with a ``name`` and what it changes: ``set``, ``teacher`` (a table instead of the recipe's, or false),
  ``plugins`` (a list instead of the recipe's) and ``tune`` (``{ "plugins.features.weight" = [0.1, 1.0, 10.0] }``);
  with ``probe``, a layer of the teacher, an arm is no run but the accuracy of that layer's linear probe from the run's labels; with
  ``axes``, a recipe below ``plans/``, its plugin tcs has the axes of that recipe's images;
- ``[lists]``, plugin lists by name: a text among an arm's ``plugins`` stands for the list of that name;
- ``[teachers]``, likewise, for an arm's ``teacher``;
- ``[[settings]]``, each with ``name`` and ``set``: every arm runs under every one, as ``SETTING: ARM``, and is compared within it;
- ``[tuning]``: ``seeds``, which are not reported; ``shared``, like ``tune``, chosen once on the reference and taken for all arms;
- ``[[curves]]``, what ``curves.py`` draws of the scalars that were logged;
- ``after``, scripts beside this one that ``run.py`` calls when all runs are there, ``{out}`` being the folder of the runs.
"""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import attrs

from stillhouse import Recipe, StillhouseError
from stillhouse.config.overrides import apply_override
from stillhouse.errors import did_you_mean
from stillhouse.experiments.arms import Arm, identity, resolved
from stillhouse.experiments.plan import Plan

PLANS = Path(__file__).parent / "plans"
KEYS = (
    *("title", "recipe", "set", "metric", "seeds", "reference", "pairs"),
    *("arms", "lists", "teachers", "settings", "tuning", "curves", "after"),
)
ARM_KEYS = ("name", "set", "teacher", "plugins", "tune", "probe", "axes")

Values = dict[str, list[Any]]
"""The values to choose from, by key."""


@attrs.frozen
class Tuning:
    """What is chosen, on the validation split, before the experiment.

    Attributes:
        seeds: of the runs that choose.
        shared: chosen once for each setting, on its reference.
        arms: chosen by each arm for itself, by the arm's name.
    """

    seeds: tuple[int, ...]
    shared: Values
    arms: dict[str, Values]


@attrs.frozen
class Experiment:
    """One file of ``plans/``.

    Attributes:
        name: the file's stem.
        title: what the table is of.
        plan: arms and seeds; an arm's group is its setting.
        metric: ``SPLIT/NAME`` that is compared.
        reference: the arm that the others of its setting are compared with.
        pairs: further pairs of arms to compare, the second taken from the first.
        tuning: None where everything is as the recipe says.
        probes: arms that are no runs, and the teacher's layer that is probed.
        axes: files of axes that arms name, and the recipes that they come from.
        order: the names of all arms, as the tables have them.
        after: what is called when all runs are there.
    """

    name: str
    title: str
    plan: Plan
    metric: str
    reference: str
    pairs: tuple[tuple[str, str], ...] = ()
    tuning: Tuning | None = None
    probes: tuple[tuple[Arm, str], ...] = ()
    axes: dict[Path, Path] = attrs.field(factory=dict)
    order: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def reference_of(self, arm: Arm) -> str:
        """The name of the arm that ``arm`` is compared with."""
        return _within(arm.group, self.reference)


def read(name: str, out: Path, seeds: int | None, overrides: list[str]) -> Experiment:
    """The experiment of ``plans/NAME.toml``, whose runs go below ``out``.

    Raises:
        StillhouseError: no such plan, unknown keys and names, arms that are the same run, tuning seeds that are reported.
    """
    path = PLANS / f"{name}.toml"
    if not path.exists():
        raise StillhouseError(
            f"there is no experiment {name!r}", hint=did_you_mean(name, [p.stem for p in PLANS.glob("*.toml")])
        )
    try:
        return _read(name, tomllib.loads(path.read_text(encoding="utf-8")), out, seeds, overrides)
    except tomllib.TOMLDecodeError as error:
        raise StillhouseError(f"is no TOML: {error}", where=str(path)) from None
    except StillhouseError as error:
        raise error.within(f"plans/{name}.toml") from None


def _read(name: str, tables: dict[str, Any], out: Path, seeds: int | None, overrides: list[str]) -> Experiment:
    _known(tables, KEYS)
    base = Recipe.load(PLANS / tables["recipe"], overrides=[*tables.get("set", []), *overrides])
    settings = tables.get("settings", [{"name": ""}])
    arms: list[Arm] = []
    probes: list[tuple[Arm, str]] = []
    axes: dict[Path, Path] = {}
    order: list[str] = []
    tune: dict[str, Values] = {}
    for setting in settings:
        _known(setting, ("name", "set"))
        for table in tables["arms"]:
            _known(table, ARM_KEYS)
            if "axes" in table:
                recipe = PLANS / table["axes"]
                file = (out / "axes" / f"{recipe.stem}.safetensors").resolve()
                axes[file] = recipe
                table = {**table, "set": [*table.get("set", []), f"plugins.tcs.axes={file}"]}
            arm = _arm(base, table, setting, tables)
            order.append(arm.name)
            if "probe" in table:
                probes.append((arm, table["probe"]))
                continue
            arms.append(arm)
            if table.get("tune"):
                tune[arm.name] = table["tune"]
    _check_names(tables, arms)
    pairs = [(_within(s["name"], a), _within(s["name"], b)) for s in settings for a, b in tables.get("pairs", [])]
    numbers = tuple(range(base.run.seed, base.run.seed + (seeds or tables["seeds"])))
    return Experiment(
        name,
        tables["title"],
        Plan(base, tuple(arms), numbers, out / name),
        tables["metric"],
        tables["reference"],
        tuple(pairs),
        _tuning(tables.get("tuning"), tune, numbers),
        tuple(probes),
        axes,
        tuple(order),
        tuple(tables.get("after", ())),
    )


def changed(arm: Arm, values: dict[str, Any], name: str | None = None) -> Arm:
    """The arm with other values of some keys."""
    tables = arm.recipe.to_dict()
    for key, value in values.items():
        apply_override(tables, f"{key}={json.dumps(value)}")
    return attrs.evolve(arm, recipe=resolved(Recipe.from_dict(tables, base=arm.recipe.base)), name=name or arm.name)


def _arm(base: Recipe, table: dict[str, Any], setting: dict[str, Any], named: dict[str, Any]) -> Arm:
    """An arm: the recipe with the changes of its own and its setting's table."""
    tables = base.to_dict()
    if "plugins" in table:
        tables["plugins"] = _plugins(table["plugins"], named.get("lists", {}))
    teacher = table.get("teacher")
    if isinstance(teacher, str):
        teacher = _named(teacher, named.get("teachers", {}))
    if teacher is False:
        tables.pop("teacher", None)
    elif teacher is not None:
        tables["teacher"] = teacher
    tables = copy.deepcopy(tables)  # other arms name the same lists: what `set` changes here is this arm's alone
    for override in [*setting.get("set", []), *table.get("set", [])]:
        apply_override(tables, override)
    recipe = Recipe.from_dict(tables, base=base.base)
    if not recipe.plugins and not {"teacher", "probe"} & table.keys():
        recipe = attrs.evolve(recipe, teacher=None)  # nobody would look at it
    return Arm(_within(setting["name"], table["name"]), "grid", resolved(recipe), group=setting["name"])


def _plugins(listed: Any, lists: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for item in [listed] if isinstance(listed, str) else listed:
        found += _named(item, lists) if isinstance(item, str) else [item]
    return found


def _named(name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        raise StillhouseError(f"nothing is named {name!r}", hint=did_you_mean(name, known))
    return known[name]


def _within(setting: str, arm: str) -> str:
    return f"{setting}: {arm}" if setting else arm


def _known(table: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in table:
        if key not in keys:
            raise StillhouseError(f"unknown key {key!r}", hint=did_you_mean(key, keys))


def _check_names(tables: dict[str, Any], arms: list[Arm]) -> None:
    names = [table["name"] for table in tables["arms"]]
    for name in [tables["reference"], *(side for pair in tables.get("pairs", []) for side in pair)]:
        if name not in names:
            raise StillhouseError(f"there is no arm {name!r}", hint=did_you_mean(name, names))
    seen: dict[str, str] = {}
    for arm in arms:
        other = seen.setdefault(identity(arm.recipe), arm.name)
        if other != arm.name:
            raise StillhouseError(f"the arms {other!r} and {arm.name!r} are the same run")


def _tuning(table: dict[str, Any] | None, arms: dict[str, Values], reported: tuple[int, ...]) -> Tuning | None:
    if table is None:
        if arms:
            raise StillhouseError("an arm has `tune`, and there is no [tuning]", hint="[tuning] seeds = [1000, 1001]")
        return None
    _known(table, ("seeds", "shared"))
    if both := sorted(set(table["seeds"]) & set(reported)):
        raise StillhouseError(f"the seeds {both} would both choose and be reported", where="tuning.seeds")
    return Tuning(tuple(table["seeds"]), table.get("shared", {}), arms)
