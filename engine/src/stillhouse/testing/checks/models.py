"""Checks of the models: the teacher and what is frozen stay as they are, modes are right, and no tensor is written over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from ignite.engine import Events
from torch import Tensor, nn

from stillhouse.assembly.soundness import find_frozen_in_training
from stillhouse.errors import StillhouseError
from stillhouse.loop.phases import Phase
from stillhouse.nested import list_tensors
from stillhouse.testing.report import Finding, Note
from stillhouse.testing.subject import Subject, differences

__all__ = [
    "check_frozen_networks",
    "check_frozen_parts",
    "check_in_place",
    "check_modes",
    "check_structure",
    "check_teacher",
]


def check_teacher(subject: Subject) -> Iterator[Finding | Note]:
    """Do the teacher's weights, statistics, modes and gradients stay as they are?"""
    training = subject.prepare()
    teachers = dict(training.run.all_teachers)
    if not teachers:
        training.close()
        yield Note("the run has no teacher in memory")
        return
    before = {name: _copy(model) for name, model in teachers.items()}
    moved: dict[str, None] = {}

    def look(_engine: Any) -> None:
        for name, model in teachers.items():
            moved.update((f"{name}.{path}", None) for path, part in model.named_modules() if part.training)

    training.run.trainer.add_event_handler(Phase.LOSSES_COMPUTED, look)
    subject.finish(training)
    for path in list(moved)[:1]:
        yield Finding(f"{path} is in train mode in a step", "call the teacher by step.forward: it stays in eval mode")
    for name, model in teachers.items():
        changed = differences(before[name], _copy(model))
        if changed:
            yield Finding(
                f"changes the {name}'s {changed[0]}",
                "a teacher is frozen; train a copy that build returns: copy.deepcopy",
            )
        trained = [path for path, p in model.named_parameters() if p.grad is not None or p.requires_grad]
        if trained:
            yield Finding(
                f"the {name}'s {trained[0]} has a gradient", "leave requires_grad of the run's teachers alone"
            )


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def check_frozen_parts(subject: Subject) -> Iterator[Finding | Note]:
    """Does a frozen part of the student keep its weights and statistics?"""
    if not subject.own_models:
        yield Note("tried on the kit's own student alone")
        return
    from stillhouse.testing.material import SmallNet

    student = SmallNet(**subject.tables["student"]["args"])
    student.stem.requires_grad_(False).eval()
    before = _copy(student.stem)
    try:
        training = subject.prepare(student=student)
    except StillhouseError as error:
        yield Note(f"refused: {error.faults[0]}")
        return
    subject.finish(training)
    changed = differences(before, _copy(student.stem))
    if changed:
        yield Finding(
            f"a frozen layer of the student changes in its {changed[0]}",
            "write parameters only where requires_grad is true, and never call train() on a model",
        )


def check_frozen_networks(subject: Subject) -> Iterator[Finding | Note]:
    """Is a frozen network of its own in eval mode in steps, so that its statistics stay and it drops nothing out?"""
    training = subject.prepare()
    module = training.run.composition.modules_of.get(subject.name, nn.Module())
    found: dict[str, str] = {}
    before: dict[str, dict[str, Tensor]] = {}

    def look(_engine: Any) -> None:
        found.update(find_frozen_in_training(module))
        before.update((path, _parameters(module.get_submodule(path))) for path in found if path not in before)

    training.run.trainer.add_event_handler(Phase.LOSSES_COMPUTED, look)
    subject.finish(training)
    for path, what in found.items():
        place = f"plugin {subject.name!r}: {what}"
        if differences(before[path], _parameters(module.get_submodule(path))):
            yield Note(f"{place}; its weights move, so that it is left to be: an average may be noisy")
        else:
            yield Finding(
                place, f"in build, `{path or 'module'}.requires_grad_(False).eval()`: what comes in eval mode stays so"
            )


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def check_modes(subject: Subject) -> Iterator[Finding]:
    """Are student and module in train mode in steps, and in eval mode while anything is measured?"""
    training = subject.prepare()
    run, found = training.run, dict[str, None]()
    composition = training.walk.composition
    frozen = {id(part) for part in composition.kept_in_eval}

    def in_step(_engine: Any) -> None:
        for path, part in composition.named_modules():
            if not part.training and id(part) not in frozen:
                found.setdefault(f"{path or 'the composition'} is in eval mode in a training step")

    def measured(_engine: Any) -> None:
        for path, part in composition.named_modules():
            if part.training:
                found.setdefault(f"{path or 'the composition'} is in train mode while the student is measured")

    run.trainer.add_event_handler(Phase.LOSSES_COMPUTED, in_step)
    run.evaluator.add_event_handler(Events.ITERATION_COMPLETED, measured)
    subject.finish(training)
    for what in list(found)[:2]:
        yield Finding(
            what, "never call train() or eval() in a hook; what stays in eval mode is returned so by build, or given so"
        )


def check_structure(subject: Subject) -> Iterator[Finding]:
    """Has the student the same layers and parameters at the end of training as at its start?"""
    training = subject.prepare()
    student, found = training.run.student, dict[str, None]()

    def parts() -> dict[str, int]:
        every = [*student.named_modules(), *student.named_parameters()]
        return {name: id(part) for name, part in every}

    before = parts()

    def compare(_engine: Any) -> None:
        now = parts()
        found.update((name, None) for name in {**before, **now} if before.get(name) != now.get(name))

    training.run.trainer.add_event_handler(Events.EPOCH_COMPLETED, compare)
    subject.finish(training)
    for name in list(found)[:1]:
        yield Finding(
            f"{name!r} of the student is another after an epoch: its taps and the optimizer still have the old one",
            "change the student in adapt, and take the change back in export",
        )


def check_in_place(subject: Subject) -> Iterator[Finding]:
    """Do inputs, targets, features and outputs keep their values while its hooks run?"""
    training = subject.prepare()
    kept: list[tuple[str, Tensor, Tensor]] = []
    found: dict[str, None] = {}

    def keep(engine: Any) -> None:
        step = engine.state.step
        things: dict[str, Any] = {"step.inputs": step.inputs, "step.targets": step.targets, "step.ids": step.ids}
        for name, side in {"student": step.student, "teacher": step.teacher}.items():
            if side is not None:
                things[f"the {name}'s output"] = type(side).__mro__[1].__dict__["output"].__get__(side)
                things |= {f"the {name}'s layer {layer!r}": x for layer, x in side.features.items()}
        kept[:] = [(what, x, x.detach().clone()) for what, tree in things.items() for x in list_tensors(tree)]

    def compare(_engine: Any) -> None:
        for what, x, before in kept:
            if x.shape != before.shape or not torch.equal(torch.nan_to_num(x.detach()), torch.nan_to_num(before)):
                found.setdefault(what)
        kept.clear()

    training.run.trainer.add_event_handler(Phase.FORWARD_COMPLETED, keep)
    training.run.trainer.add_event_handler(Phase.LOSSES_COMPUTED, compare)
    subject.finish(training)
    for what in found:
        yield Finding(
            f"{what} has other values after its hooks", "make a new tensor; .data and NumPy arrays share memory"
        )
