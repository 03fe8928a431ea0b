"""The full tier: what ``full.toml`` changes of the plans, so that a GPU has something to do.

A table ``[[experiments]]``, in the order in which they are run, that of their value:

- ``name``, of a plan; ``set``, changes of its recipe as ``--set`` takes them, beside ``run.device=cuda``; ``seeds``, instead of
  the plan's;
- ``jobs``, runs at a time; ``minutes`` that it may take, an estimate until it has run;
- ``data``, the folders below ``~/datasets`` that its recipes read, which ``pack.py`` packs.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import attrs
from _plan import Experiment, read

from stillhouse import Recipe, StillhouseError
from stillhouse.errors import did_you_mean
from stillhouse.experiments.arms import Arm

FULL = Path(__file__).parent / "full.toml"
MINUTES = 20.0
"""All experiments together."""
ROOT = "~/datasets"
"""What recipes call the folder of the data sets."""


@attrs.frozen(kw_only=True)
class Full:
    """An experiment of the full tier; see above."""

    name: str
    minutes: float
    set: list[str] = attrs.field(factory=list)
    seeds: int | None = None
    jobs: int = 8
    data: list[str] = attrs.field(factory=list)

    @property
    def block(self) -> str:
        """What its place in a page, its folder of runs and its numbers are called."""
        return f"{self.name}-full"

    def experiment(self, out: Path, seeds: int | None, overrides: list[str], root: Path | None = None) -> Experiment:
        """The plan with these changes, its runs below ``out``, and its data below ``root`` instead of ``~/datasets``.

        Raises:
            StillhouseError: as :func:`_plan.read`.
        """
        found = read(self.name, out, seeds or self.seeds, ["run.device=cuda", *self.set, *overrides])
        plan = attrs.evolve(found.plan, folder=out / self.block)
        if root is not None:
            arms = tuple(_moved(arm, root) for arm in plan.arms)
            plan = attrs.evolve(plan, recipe=_elsewhere(plan.recipe, root), arms=arms)
        return attrs.evolve(found, name=self.block, title=f"{found.title}: the full tier", plan=plan)

    def line(self) -> str:
        """A row of the table."""
        changes = [f"{self.seeds} seeds"] if self.seeds else []
        changes += [f"`{change}`" for change in self.set]
        return f"| {self.name} | {', '.join(changes)} | {self.jobs} | {self.minutes:g} | {', '.join(self.data) or 'none'} |"


def tier() -> list[Full]:
    """The experiments of ``full.toml``, in their order.

    Raises:
        StillhouseError: unknown keys, a name twice, more minutes than there are.
    """
    tables: list[dict[str, Any]] = tomllib.loads(FULL.read_text(encoding="utf-8"))["experiments"]
    keys = [field.name for field in attrs.fields(Full)]
    for table in tables:
        for key in table:
            if key not in keys:
                raise StillhouseError(f"unknown key {key!r}", where=FULL.name, hint=did_you_mean(key, keys))
    found = [Full(**table) for table in tables]
    names = [each.name for each in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StillhouseError(f"{twice[0]!r} is there twice", where=FULL.name)
    total = sum(each.minutes for each in found)
    if total > MINUTES:
        raise StillhouseError(f"{total:g} minutes, and all together may take {MINUTES:g}", where=FULL.name)
    return found


def picked(names: list[str]) -> list[Full]:
    """The experiments that are named, in the tier's order; none named: all.

    Raises:
        StillhouseError: a name that the tier does not have.
    """
    found = tier()
    known = [each.name for each in found]
    for name in names:
        if name not in known:
            raise StillhouseError(f"the full tier has no {name!r}", hint=did_you_mean(name, known))
    return [each for each in found if not names or each.name in names]


def table() -> str:
    """The tier, for its page."""
    every = tier()
    total = f"{sum(each.minutes for each in every):g} minutes in all: estimates, until they have run."
    head = ["| experiment | what it changes | runs at a time | minutes | data |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(each.line() for each in every), "", total])


def _moved(arm: Arm, root: Path) -> Arm:
    return attrs.evolve(arm, recipe=_elsewhere(arm.recipe, root))


def _elsewhere(recipe: Recipe, root: Path) -> Recipe:
    text = json.dumps(recipe.to_dict()).replace(ROOT, str(root.resolve()))
    return Recipe.from_dict(json.loads(text), base=recipe.base)
