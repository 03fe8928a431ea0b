"""The arms of an experiment in the order of their means, with what a step of each costs: time, memory, what it keeps.

The steps are timed in turn in one process, on one thread, over the reference's in the same turn. Memory is what autograd
holds for the backward pass, read off its own hooks; and what plugins keep in their modules.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stillhouse import Recipe, StillhouseError, prepare
from stillhouse.experiments.choice import END, Choice
from stillhouse_experiments.choices import taken
from stillhouse_experiments.experiment import Experiment
from stillhouse_experiments.figures.figure import Figure, Request
from stillhouse_experiments.machine import machine
from stillhouse_experiments.timing import interleaved, ratio

__all__ = ["format_difference", "held_bytes", "make"]


def held_bytes(step: Callable[[], object]) -> int:
    """The bytes of all storages that autograd saves in one ``step``, each counted once; the models' weights are among them."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # an address that is free again would be counted as the one before

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        alive.append(x.detach())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        step()
    return sum(kept.values())


def make(request: Request) -> Figure:
    """The table of one experiment, its best arm first.

    Raises:
        StillhouseError: the experiment's table is not there.
    """
    name = request.name
    numbers = request.home.results / f"{name}.json"
    if not numbers.exists():
        raise StillhouseError("is not there", where=str(numbers), hint=f"run it first: stillhouse experiment {name}")
    groups = json.loads(numbers.read_text(encoding="utf-8"))["groups"]
    plan = request.experiment()
    chosen = taken(plan, numbers)
    if chosen is None and plan.tuning is not None:
        raise StillhouseError(
            "was made of other values than the plan leaves open now",
            where=str(numbers),
            hint=f"run it again: stillhouse experiment {name}",
        )
    experiment, choices = (plan, []) if chosen is None else chosen
    at_end = {choice.arm for choice in choices if choice.ends}
    steps, kept = {}, {}
    for arm in experiment.plan.arms:
        steps[arm.name], kept[arm.name] = _step(arm.recipe)
    held = {arm: held_bytes(step) for arm, step in steps.items()}
    seconds = interleaved(steps)
    lines = [
        f"Command: `stillhouse experiment {name} --figure cost`. Machine: {machine()}. A step is timed over that of "
        f"{experiment.reference!r} in the same turn, seven turns; memory is what autograd holds for the backward pass beyond that arm's, "
        "and what the plugins' modules keep.",
        "",
        f"| | mean ± sd | less {experiment.reference} [95%] | a step, times {experiment.reference}'s | held, MB | kept, MB |",
        "|---|---|---|---|---|---|",
    ]
    for group in sorted(groups, key=lambda group: -group["mean"]):
        arm = group["name"]
        _, middle, _ = ratio(seconds, arm, experiment.reference)
        more = (held[arm] - held[experiment.reference]) / 1e6
        lines.append(
            f"| {arm}{f' {END}' if arm in at_end else ''} | {group['mean']:.4f} ± {group['deviation']:.4f} | {format_difference(group, experiment.reference)} "
            f"| {middle:.2f} | {more:+.2f} | {kept[arm] / 1e6:.2f} |"
        )
    return Figure(f"{name} cost", [*lines, *_tell_ends(experiment, choices)])


def _tell_ends(experiment: Experiment, choices: list[Choice]) -> list[str]:
    """Which arms may do better with values that nobody has tried; nothing where there are none."""
    found = [choice.arm for choice in choices if choice.ends]
    if not found:
        return []
    said = f"{END}: for {len(found)} of {len(experiment.plan.arms)} arms a chosen value is at the end of what was tried"
    return ["", f"{said} ({', '.join(found)}): with others they may do better."]


def format_difference(group: dict[str, Any], reference: str) -> str:
    """A group's difference from ``reference`` with its interval, as in the numbers' file; * where p < 0.05 after correction."""
    found = group["differences"].get(reference)
    if not found:
        return "-"
    if found["low"] is None:  # all seeds differ by the same
        return f"{found['mean']:+.4f}"
    star = " *" if found["p_adjusted"] is not None and found["p_adjusted"] < 0.05 else ""
    return f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]{star}"


def _step(recipe: Recipe) -> tuple[Callable[[], object], int]:
    """A training step on one batch of ``recipe``'s run, and the bytes in its plugins' modules."""
    training = prepare(recipe, write=False)
    run = training.run
    batch = next(iter(training.data.training()))
    run.composition.train()
    run.trainer.state.epoch = run.trainer.state.iteration = 1
    parts = run.composition.modules_of.values()
    tensors = [x for part in parts for x in (*part.parameters(), *part.buffers())]
    return (lambda: run.trainer._process_function(run.trainer, batch)), sum(x.nbytes for x in tensors)
