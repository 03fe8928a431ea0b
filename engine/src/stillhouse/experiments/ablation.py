"""Ablations: a plan is made, its unfinished runs are trained, and all finished ones are compared."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from stillhouse.config.recipe import Recipe
from stillhouse.errors import StillhouseError, StillhouseWarning, did_you_mean
from stillhouse.experiments.arm_events import write_events
from stillhouse.experiments.arms import hash_arm, make_arms, name_arms, resolve
from stillhouse.experiments.comparison import Comparison
from stillhouse.experiments.compatibility import check_alike
from stillhouse.experiments.ends import find_mode, note_ends
from stillhouse.experiments.finished_run import FinishedRun
from stillhouse.experiments.halving import Halving, check_halving, halve_plan
from stillhouse.experiments.job import collect_warnings, warn_of_runs
from stillhouse.experiments.listing import choose_axes, choose_folder, choose_kinds, choose_seeds
from stillhouse.experiments.picture import write_picture
from stillhouse.experiments.plan import Plan
from stillhouse.experiments.plan_runs import run_plan
from stillhouse.experiments.plan_table import count_comparisons, make_comparison
from stillhouse.experiments.report import write_report
from stillhouse.experiments.sensitivity import check_spread, foretell
from stillhouse.experiments.tuning import Tuning, check_tuning, tune_plan
from stillhouse.experiments.workers import can_fork
from stillhouse.memo import share_memo
from stillhouse.tasks.builder import build_task
from stillhouse.terminal import Terminal
from stillhouse.training.preparation import prepare

__all__ = ["ablate", "make_plan", "run_plan"]


def ablate(
    recipe: Recipe,
    *,
    seeds: int = 5,
    leave_one_out: bool = False,
    one_at_a_time: bool = False,
    grid: Sequence[str] = (),
    factorial: Sequence[str] = (),
    jobs: int = 1,
    out: str | Path | None = None,
    figures: bool = False,
    metric: str | None = None,
    mixed: bool = False,
    sd: float | None = None,
    tune: Tuning | None = None,
    halving: Halving | None = None,
    progress: bool = False,
    command: str = "",
) -> Comparison:
    """Train every arm of ``recipe`` under every seed, and compare them.

    Arms share, seed by seed, the order of samples, their augmentation, the subset of labels and the student's initialisation.
    Finished runs in the folder are not trained again. A run that fails is named in the result's ``missing``; the
    others go on.

    Args:
        recipe: the run with its full list of plugins. Its seed is the first of the seeds.
        seeds: the number of seeds of each arm.
        leave_one_out: an arm without each plugin. Without this, the next, ``grid`` and ``factorial``, both are made.
        one_at_a_time: an arm with each plugin alone.
        grid: ``KEY=VALUE,VALUE,...`` each, keys as in ``--set``: one arm for each combination.
        factorial: plugins, a plus between those that belong together: one arm for each combination of their being there.
        jobs: runs at a time, each in a process of its own with one thread; 1 trains in this process.
        out: the folder; ``runs/NAME-ablation`` by default. Runs are in ``ARM/seed-K``, the table in ``results.json``
            and ``table.md`` (``.csv``, ``.tex``), a picture of it in ``picture.svg`` and ``.png``, and all in ``report.html``. Means over the
            seeds are in ``ARM/mean``, for TensorBoard.
        figures: let each run draw pictures for TensorBoard, which takes longer than a short run does.
        metric: ``SPLIT/NAME``; by default the task's score on the test split, or else on the validation split.
        mixed: keep runs that were finished with other data, weights, code or versions; they are marked.
        sd: the standard deviation of paired differences that is expected, in the metric's unit: progress begins with what
            so many seeds can find.
        tune: what each arm chooses for itself before, on validation samples under seeds that are not reported.
        halving: how arms that are hopeless in short runs are found, to be stopped before the others are trained.
        progress: show progress on the terminal.
        command: what the report names as having made it.

    Raises:
        StillhouseError: bad input: every arm that cannot be built, a folder of another ablation, runs in it that were
            finished with other data, weights, code or versions.
    """
    if jobs < 1:
        raise StillhouseError(f"must be >= 1, got {jobs}", where="--jobs")
    check_spread(sd)
    if halving is not None:
        check_halving(halving, recipe, factorial)
    # A fork has what the checks have read. Other workers read it themselves, and it need not stay here meanwhile.
    with share_memo() if jobs == 1 or can_fork([_set_one_thread(recipe)]) else nullcontext():
        plan, metrics = make_plan(
            recipe,
            seeds=seeds,
            leave_one_out=leave_one_out,
            one_at_a_time=one_at_a_time,
            grid=grid,
            factorial=factorial,
            out=out,
            figures=figures,
            mixed=mixed,
            metric=metric,
            tune=None if tune is None else partial(_tune, tune, jobs, progress),
        )
        if halving is not None:
            plan = _halve(halving, jobs, progress, plan, metrics)
        if progress:
            Terminal(stderr=True).print(foretell(len(plan.seeds), count_comparisons(plan), sd), soft_wrap=True)
        failed = run_plan(plan, jobs=jobs, progress=progress)
    comparison = make_comparison(plan, metric=metric, failed=failed, mixed=mixed)
    if grid:
        mode = find_mode(comparison.metric, build_task(recipe.task, recipe.base))
        comparison = note_ends(comparison, [*plan.arms, *(arm for arm, _ in plan.stopped)], mode)
    if any(row.group.values for row in comparison.rows):
        write_report(plan.folder, comparison, command)
        write_picture(plan.folder / "picture.svg", comparison, plan)
        write_events(comparison)
    return comparison


def make_plan(
    recipe: Recipe,
    *,
    seeds: int,
    leave_one_out: bool = False,
    one_at_a_time: bool = False,
    grid: Sequence[str] = (),
    factorial: Sequence[str] = (),
    out: str | Path | None = None,
    figures: bool = False,
    mixed: bool = False,
    metric: str | None = None,
    tune: Callable[[Plan, Mapping[str, set[str]]], Plan] | None = None,
) -> tuple[Plan, dict[str, set[str]]]:
    """Make the plan of :func:`ablate`; every arm is built once, without training, and nothing is written but by ``tune``.

    ``tune`` has every arm choose for itself, given the plan and the names of the metrics by split.

    Returns:
        The plan, and the names of the metrics by split.

    Raises:
        StillhouseError: as :func:`ablate`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise StillhouseError("an ablation must start as one process", hint="start it without torchrun; see --jobs")
    numbers = choose_seeds(recipe, seeds)
    leave_one_out, one_at_a_time = choose_kinds(leave_one_out, one_at_a_time, [*grid, *factorial])
    known: dict[str, set[str]] = {}
    locks: dict[str, dict[str, Any]] = {}

    def check(arm: Recipe) -> None:
        training = prepare(_set_one_thread(arm), write=False, train_teacher=False)
        try:
            locks[hash_arm(_set_one_thread(arm))] = training.make_lock()
            names = set(training.run.task.metrics(training.run.data))
            for _, metrics in training.walk.hooks.calls("metrics"):
                names |= set(metrics(training.assembly))
            for split in training.data.splits:
                if split != "train":
                    known.setdefault(split, set()).update(names)
        finally:
            training.close()

    told: list[str] = []
    with share_memo(), collect_warnings(told):
        whole = resolve(recipe)
        asked: dict[str, Any] = {
            "leave_one_out": leave_one_out,
            "one_at_a_time": one_at_a_time,
            "axes": choose_axes(whole, grid, factorial),
        }
        arms = make_arms(whole, **asked, check=check)
    warn_of_runs(told)
    folder = choose_folder(recipe, out)
    plan = Plan(whole, tuple(arms), numbers, folder, figures, tuple(name_arms(whole, **asked)))
    _check_metric(metric, known)
    if tune is not None:
        untuned = [hash_arm(_set_one_thread(arm.recipe)) for arm in plan.arms]
        plan = tune(plan, known)
        tuned = [hash_arm(_set_one_thread(arm.recipe)) for arm in plan.arms]
        locks |= {own: locks[before] for own, before in zip(tuned, untuned, strict=True) if before in locks}
    _check_folder(plan, locks, mixed=mixed)
    return plan, known


def _tune(tuning: Tuning, jobs: int, progress: bool, plan: Plan, metrics: Mapping[str, set[str]]) -> Plan:
    check_tuning(tuning, plan.recipe, metrics)
    return tune_plan(plan, tuning, jobs=jobs, progress=progress)


def _halve(halving: Halving, jobs: int, progress: bool, plan: Plan, metrics: Mapping[str, set[str]]) -> Plan:
    if "val" not in metrics:
        raise StillhouseError("needs a validation split to go by", where="--halving", hint="data.val_fraction = 0.2")
    return halve_plan(plan, halving, jobs=jobs, progress=progress)


def _check_folder(plan: Plan, locks: Mapping[str, Mapping[str, Any]], *, mixed: bool) -> None:
    """Refuse a folder of another plan, or whose finished runs are not alike with those that would be trained now."""
    plan.check_folder()
    runs = plan.runs()
    done = [FinishedRun.of(run.folder, run.recipe, summary) for run in runs if (summary := run.summary()) is not None]
    if not done or len(done) == len(runs):
        return  # nothing to be mixed, or nothing to be trained: the table says what there is
    # The data's hash may follow from the seed, and the lock is the first seed's.
    now = [
        FinishedRun(Path("the run to come"), run.recipe, {}, locks[hash_arm(run.recipe)])
        for run in runs
        if run.seed == plan.recipe.run.seed and hash_arm(run.recipe) in locks
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StillhouseWarning)  # the table tells of machines, once it is there
        check_alike([*done, *now], mixed=mixed)


def _set_one_thread(recipe: Recipe) -> Recipe:
    return attrs.evolve(recipe, run=attrs.evolve(recipe.run, threads=recipe.run.threads or 1))


def _check_metric(metric: str | None, known: Mapping[str, set[str]]) -> None:
    if metric is None:
        return
    split, _, name = metric.partition("/")
    names = known.get(split, set())
    if name in names or name.partition("/")[0] in names:  # a metric by class is named NAME/CLASS
        return
    every = [f"{s}/{n}" for s, ns in known.items() for n in sorted(ns)]
    raise StillhouseError(f"unknown metric {metric!r}", where="--metric", hint=did_you_mean(metric, every))
