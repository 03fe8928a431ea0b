"""A figure: what it is drawn of, and the part of a page that it becomes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import attrs

from stillhouse import StillhouseError
from stillhouse.experiments.tuning import UnfinishedError
from stillhouse_experiments.choices import tuned
from stillhouse_experiments.experiment import Experiment, read
from stillhouse_experiments.home import Home

__all__ = ["Figure", "Request", "draw"]


@attrs.frozen
class Request:
    """What a figure is drawn of.

    Attributes:
        home: of pages and results.
        plan: the plan's file; None for a figure that needs none.
        out: the folder of the runs of all experiments.
        seeds: how many, instead of the plan's.
        overrides: changes of the plan's recipe.
        data: where the data sets are, if not in ``~/datasets``.
    """

    home: Home
    plan: Path | None
    out: Path
    seeds: int | None = None
    overrides: tuple[str, ...] = ()
    data: Path | None = None

    @property
    def name(self) -> str:
        """The experiment's.

        Raises:
            StillhouseError: no plan was named.
        """
        if self.plan is None:
            raise StillhouseError("this figure is drawn of an experiment's runs", hint="name its plan before --figure")
        return self.plan.stem

    def experiment(self) -> Experiment:
        """The plan as it stands.

        Raises:
            StillhouseError: no plan was named, or what is wrong with it.
        """
        assert self.name
        assert self.plan is not None
        found = read(self.plan, self.out, self.seeds, list(self.overrides))
        return found if self.data is None else found.with_data(self.data)

    def finished(self) -> Experiment:
        """The experiment with the values that it has chosen; nothing is trained.

        Raises:
            StillhouseError: as :meth:`experiment`, or its runs are not there.
        """
        experiment = self.experiment()
        absent = StillhouseError(
            f"there are no finished runs of {experiment.name} yet",
            where=str(self.out),
            hint=f"run it first: stillhouse experiment {experiment.name}",
        )
        if not experiment.plan.folder.is_dir():
            raise absent
        try:
            chosen, _, _ = tuned(experiment, jobs=1, until=0.0)
        except UnfinishedError:
            raise absent from None
        if not any(run.summary() is not None for run in chosen.plan.runs()):
            raise absent
        return chosen


@attrs.frozen
class Figure:
    """The part of a page that a figure is.

    Attributes:
        block: its place, ``<!-- results: BLOCK -->``.
        lines: its text.
        met: whether it met its target, if it has one.
    """

    block: str
    lines: list[str]
    met: bool = True


def draw(name: str, request: Request) -> int:
    """Draw a figure into its page, and print its text; the exit code, 1 where it missed its target.

    Raises:
        StillhouseError: what it is drawn of is not there.
    """
    module = import_module(f"stillhouse_experiments.figures.{name}")
    make: Callable[[Request], Figure] = module.make
    try:
        figure = make(request)
    except StillhouseError as error:
        raise error.within(f"figure {name!r}") from None
    text = "\n".join(figure.lines)
    request.home.put(figure.block, text)
    print(text)
    return 0 if figure.met else 1
