"""Checks of gradients: every term has one that is finite, and every parameter of the module gets one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch

from stillhouse.loop.phases import Phase
from stillhouse.testing.report import Finding, Note
from stillhouse.testing.subject import Subject

__all__ = ["check_parameters", "check_terms"]


def check_terms(subject: Subject) -> Iterator[Finding | Note]:
    """Has every term a gradient that is finite and moves something?"""
    try:
        training = subject.prepare()
    except Exception:  # noqa: BLE001 - check_training has said what it is
        return
    if training.walk.composition.combiner is not None:
        training.close()
        return
    parameters = [p for p in training.run.composition.parameters() if p.requires_grad]
    given: dict[str, None] = {}
    moves: dict[str, bool] = {}
    broken: dict[str, None] = {}

    def look(engine: Any) -> None:
        step = engine.state.step
        for name, value in step.losses.items():
            if name.split("/")[0] != subject.name:
                continue
            given.setdefault(name)
            if not value.requires_grad:
                continue
            found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            moves[name] = moves.get(name, False) or any(bool((g != 0).any()) for g in found if g is not None)
            if not all(bool(torch.isfinite(g).all()) for g in found if g is not None):
                broken.setdefault(name)

    training.run.trainer.add_event_handler(Phase.LOSSES_COMPUTED, look)
    with suppress(Exception):  # gradients that are not finite end the run
        subject.finish(training)
        if "losses" in subject.hooks and not given:
            yield Note(
                'losses gave no term in any step: {"": loss} is one; one that begins later has a schedule as its weight'
            )
    for name in broken:
        yield Finding(
            f"the gradient of the term {name!r} is not finite",
            "keep square roots, norms and logarithms away from 0, by clamp or eps inside of them",
        )
    for name, moved in moves.items():
        if not moved:
            yield Finding(
                f"the gradient of the term {name!r} is 0 in every step",
                "it compares a thing with itself, rounds, or is cut off by a clamp",
            )


def check_parameters(subject: Subject) -> Iterator[Finding]:
    """Does every trained parameter of its module get a gradient, and is it in the optimizer?"""
    training = subject.prepare()
    module = training.run.composition.modules_of.get(subject.name)
    trained = {} if module is None else {name: p for name, p in module.named_parameters() if p.requires_grad}
    reached: set[str] = set()

    def look(_engine: Any) -> None:
        reached.update(name for name, p in trained.items() if p.grad is not None and bool((p.grad != 0).any()))

    training.run.trainer.add_event_handler(Phase.BACKWARD_COMPLETED, look)
    optimized = {id(p) for group in training.optimizer.param_groups for p in group["params"]}
    subject.finish(training)
    late = [] if module is None else [n for n, p in module.named_parameters() if p.requires_grad and n not in trained]
    for name in [n for n, p in trained.items() if id(p) not in optimized] + late:
        yield Finding(f"the parameter {name!r} is in no group of the optimizer", "make every parameter in build")
    without = [name for name in trained if name not in reached]
    if without:
        yield Finding(
            f"no gradient ever reaches {', '.join(map(repr, without[:4]))} of its module",
            "use it in transform or losses; requires_grad_(False) for what the optimizer is not to train",
        )
