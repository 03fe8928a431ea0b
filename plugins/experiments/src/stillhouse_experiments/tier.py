"""The full tier: changes of the plans, in ``full.toml``, that give a GPU something to do."""

from __future__ import annotations

import tomllib
from pathlib import Path

import attrs

from stillhouse import StillhouseError
from stillhouse.config.structure import structure
from stillhouse.errors import Fault, did_you_mean, raise_faults
from stillhouse_experiments.experiment import Experiment, read
from stillhouse_experiments.home import Home
from stillhouse_experiments.plan import at_least_one

__all__ = ["MINUTES", "TierEntry", "picked", "table", "tier"]

MINUTES = 20.0
"""All experiments together."""


@attrs.frozen(kw_only=True)
class TierEntry:
    """One of the tier's ``[[experiments]]``, in the order in which they are run, that of their value.

    Attributes:
        name: of a plan.
        minutes: that it may take, an estimate until it has run.
        set: changes of the plan's recipe, beside ``run.device=cuda``.
        seeds: how many, instead of the plan's.
        jobs: runs at a time.
        data: the folders below ``~/datasets`` that its recipes read, which a pack has.
    """

    name: str
    minutes: float
    set: tuple[str, ...] = ()
    seeds: int | None = attrs.field(default=None, validator=at_least_one)
    jobs: int = attrs.field(default=8, validator=at_least_one)
    data: tuple[str, ...] = ()

    @property
    def block(self) -> str:
        """The name of its place in a page, of its folder of runs and of its numbers."""
        return f"{self.name}-full"

    def experiment(
        self, home: Home, out: Path, seeds: int | None = None, overrides: list[str] | None = None
    ) -> Experiment:
        """The plan with these changes, its runs below ``out``.

        Raises:
            StillhouseError: as :func:`stillhouse_experiments.experiment.read`.
        """
        changes = ["run.device=cuda", *self.set, *(overrides or [])]
        found = read(home.plan(self.name), out, seeds or self.seeds, changes)
        plan = attrs.evolve(found.plan, folder=out / self.block)
        # The figures are drawn of the small tier's runs.
        return attrs.evolve(found, name=self.block, title=f"{found.title}: the full tier", plan=plan, figures=())

    def line(self) -> str:
        """A row of the table."""
        changes = [f"{self.seeds} seeds"] if self.seeds else []
        changes += [f"`{change}`" for change in self.set]
        return f"| {self.name} | {', '.join(changes)} | {self.jobs} | {self.minutes:g} | {', '.join(self.data) or 'none'} |"


@attrs.frozen(kw_only=True)
class _File:
    experiments: tuple[TierEntry, ...]


def tier(home: Home) -> list[TierEntry]:
    """The experiments of ``full.toml``, in their order.

    Raises:
        StillhouseError: no such file, unknown keys and wrong values, a name twice, more minutes than there are.
    """
    try:
        return _checked(structure(tomllib.loads(home.tier.read_text(encoding="utf-8")), _File))
    except OSError as error:
        raise StillhouseError(f"cannot be read: {error}", where=str(home.tier)) from None
    except tomllib.TOMLDecodeError as error:
        raise StillhouseError(f"must be TOML: {error}", where=str(home.tier)) from None
    except StillhouseError as error:
        raise error.within(str(home.tier)) from None


def picked(home: Home, names: list[str]) -> list[TierEntry]:
    """The experiments that are named, in the tier's order; none named: all.

    Raises:
        StillhouseError: a name that the tier does not have.
    """
    found = tier(home)
    known = [each.name for each in found]
    raise_faults(
        Fault(str(home.tier), f"the full tier has no {name!r}", did_you_mean(name, known))
        for name in names
        if name not in known
    )
    return [each for each in found if not names or each.name in names]


def table(home: Home) -> str:
    """The tier, for its page."""
    every = tier(home)
    total = f"{sum(each.minutes for each in every):g} minutes in all: estimates, until they have run."
    head = ["| experiment | what it changes | runs at a time | minutes | data |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(each.line() for each in every), "", total])


def _checked(file: _File) -> list[TierEntry]:
    names = [each.name for each in file.experiments]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StillhouseError(f"{twice[0]!r} is there twice", where="experiments")
    total = sum(each.minutes for each in file.experiments)
    if total > MINUTES:
        raise StillhouseError(f"{total:g} minutes, and all together may take {MINUTES:g}", where="experiments")
    return list(file.experiments)
