"""A run of an experiment: values chosen, missing runs trained until time is over, its part of a page written."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import attrs

from stillhouse.experiments.ablation import run_plan
from stillhouse.experiments.choice import Choice
from stillhouse.experiments.plan import Plan
from stillhouse.experiments.tuning import UnfinishedError
from stillhouse_experiments.choices import taken, tuned
from stillhouse_experiments.clock import Clock
from stillhouse_experiments.experiment import Experiment
from stillhouse_experiments.figures.figure import Request, draw
from stillhouse_experiments.home import Home
from stillhouse_experiments.page import compared, write
from stillhouse_experiments.teachers import make_axes

__all__ = ["Limits", "run", "run_full"]


@attrs.frozen
class Limits:
    """How much is run at a time, and how long.

    Attributes:
        jobs: runs at a time.
        until: by ``time.monotonic()``, from when on no run is begun; None: never.
    """

    jobs: int
    until: float | None

    @classmethod
    def of(cls, jobs: int, minutes: float | None) -> Limits:
        """Limits that begin now."""
        return cls(jobs, None if minutes is None else time.monotonic() + 60 * minutes)


def run(home: Home, experiment: Experiment, limits: Limits, command: str, request: Request) -> int:
    """Run an experiment of the small tier, and draw its figures once all runs are there; the exit code.

    Args:
        home: of its page.
        experiment: as its plan says.
        limits: of this call.
        command: to show on the page.
        request: for its figures.

    Raises:
        StillhouseError: a run that was to choose a value failed, a teacher that cannot be trained, a figure that cannot be drawn.
    """
    clock = Clock(experiment.plan.folder)
    make_axes(experiment)
    try:
        chosen, choices, tuning = tuned(experiment, jobs=limits.jobs, until=limits.until)
    except UnfinishedError:
        _report_open(home, experiment, "values are still being chosen")
        clock.minutes()
        return 0
    return _run(home, chosen, limits, command, clock, request, choices, tuning)


def run_full(home: Home, experiment: Experiment, limits: Limits, command: str, numbers: Path, request: Request) -> int:
    """The same of the full tier, with what the small tier has chosen where its ``numbers`` tell it.

    Raises:
        StillhouseError: as :func:`run`.
    """
    found = taken(experiment, numbers)
    if found is None:
        return run(home, experiment, limits, command, request)
    clock = Clock(experiment.plan.folder)
    make_axes(experiment)
    note = "What was open is as the small tier chose it."
    return _run(home, found[0], limits, command, clock, request, found[1], [], note)


def _run(
    home: Home,
    experiment: Experiment,
    limits: Limits,
    command: str,
    clock: Clock,
    request: Request,
    choices: list[Choice],
    tuning: list[Plan],
    note: str = "",
) -> int:
    """Train what is missing until time is over, and write what there is."""
    failed = run_plan(experiment.plan, jobs=limits.jobs, progress=True, until=limits.until)
    for index, error in failed.items():
        print(f"run {index}: {error}", file=sys.stderr)
    code = 2 if failed else 0
    runs = experiment.plan.runs()
    missing = {run.seed for run in runs if run.summary() is None and run.index not in failed}
    if missing:
        # Whole seeds alone: an arm that has fewer than its reference would be compared on other pairs.
        whole = tuple(seed for seed in experiment.plan.seeds if seed not in missing)
        done = sum(run.summary() is not None for run in runs)
        _report_open(home, experiment, f"{done} of {len(runs)} runs are finished", in_page=len(whole) < 2)
        if len(whole) < 2:
            clock.minutes()
            return code
        note = f"{note} Not finished yet: {len(experiment.plan.seeds)} seeds are planned.".strip()
        experiment = attrs.evolve(experiment, plan=attrs.evolve(experiment.plan, seeds=whole))
        failed = {}  # their numbers are those of the whole plan; the next call tries them again
    comparison = compared(experiment, failed, choices)
    tell = partial(write, home, experiment, comparison, choices, tuning, limits.jobs, command, note=note)
    text = tell()
    if not (missing or code):  # the figures may read the numbers
        for name in experiment.figures:
            code = max(code, draw(name, request))
    if (minutes := clock.minutes()) is not None:
        text = tell(minutes=minutes)
    print(text)
    return code


def _report_open(home: Home, experiment: Experiment, what: str, *, in_page: bool = True) -> None:
    """Say that time was over, and in the page too where there is no table yet."""
    print(f"{experiment.name}: time is over, and {what}; the same command goes on", file=sys.stderr)
    if in_page and not (home.results / f"{experiment.name}.json").exists():
        home.put(experiment.name, f"Not run to an end yet: {what}.")
