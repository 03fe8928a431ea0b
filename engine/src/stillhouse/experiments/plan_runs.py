"""The runs of a plan: those that are not finished are trained, here or in processes of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

import torch

from stillhouse.errors import StillhouseError
from stillhouse.experiments.job import Job, warn_of_runs
from stillhouse.experiments.plan import Plan, PlannedRun
from stillhouse.experiments.progress import Counter
from stillhouse.experiments.workers import can_fork, run_here, run_in_workers
from stillhouse.training.preparation import prepare

__all__ = ["run_plan"]


def run_plan(
    plan: Plan,
    *,
    jobs: int = 1,
    progress: bool = False,
    only: Sequence[int] | None = None,
    until: float | None = None,
) -> dict[int, str]:
    """Train the plan's runs that are not finished.

    Teachers given by recipes are trained first, in this process, once.

    Args:
        plan: the plan.
        jobs: see :func:`ablate`.
        progress: likewise.
        only: the numbers of the runs to train; None: all.
        until: time by ``time.monotonic()`` from which on no teacher and no run is started; None: no limit.

    Returns:
        The errors of runs that failed, by the run's number.

    Raises:
        StillhouseError: an unknown run's number, a folder that cannot be written, a teacher that cannot be trained.
    """
    runs = plan.runs()
    count = len(plan.numbered) * len(plan.seeds)
    wrong = [index for index in only or () if not 0 <= index < count]
    if wrong:
        raise StillhouseError(f"must be 0 to {count - 1}, got {wrong[0]}", where="--only", hint="see --list")
    plan.write()
    asked = [run for run in runs if only is None or run.index in only]
    open_runs = [run for run in asked if run.summary() is None]

    def in_time(runs: Iterable[PlannedRun]) -> Iterator[PlannedRun]:
        return (run for run in runs if until is None or time.monotonic() < until)

    failed: dict[int, str] = {}
    numbers = {run.index for run in runs}
    told = [plan.explain(index) for index in only or () if index not in numbers]
    _train_teachers(in_time(open_runs), progress)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch gives it no types
        torch.cuda.empty_cache()  # of the checks and the teacher, for the workers
    devices = _list_devices(plan.recipe.run.device)
    todo = (Job.of(run, devices[run.index % len(devices)]) for run in in_time(open_runs))
    # One that is forked has to be there before the counter's thread is.
    count = min(jobs, len(open_runs))
    fork = count > 1 and can_fork(run.recipe for run in open_runs)
    outcomes = run_here(todo) if count < 2 else run_in_workers(todo, count, fork=fork)
    counter = Counter(plan.recipe.run.name, len(asked), len(asked) - len(open_runs), enabled=progress)
    with counter, closing(outcomes):
        for outcome in outcomes:
            told += outcome.warnings
            if outcome.summary is None:
                failed[outcome.job.index] = outcome.error
            counter.count(outcome)
    warn_of_runs(told)
    return failed


def _train_teachers(runs: Iterable[PlannedRun], progress: bool) -> None:
    """Train each recipe of a teacher or of a student's start once, so that no two workers train the same one."""
    seen = set()
    for run in runs:
        teacher = run.recipe.teacher
        first = [run.recipe.student.recipe, None if teacher is None else teacher.recipe]
        if first == [None, None]:
            continue
        own = run.seed if teacher is not None and teacher.same_labels else None
        key = json.dumps([*first, own], sort_keys=True, default=repr)
        if key not in seen:
            seen.add(key)
            prepare(run.recipe, write=False, progress=progress).close()


def _list_devices(name: str) -> list[str]:
    """List the devices that runs are spread over: every GPU of this machine where the recipe leaves the choice open."""
    count = torch.cuda.device_count() if name in ("auto", "cuda") else 0
    return [f"cuda:{i}" for i in range(count)] if count > 1 else [""]
