"""Train and eval mode as a part of the contract: in steps, while anything is measured, and of what is given frozen."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support import TinyNet, recipe, same_state
from torch import nn

from stillhouse import Plugin, StillhouseError, Weight, hookimpl, plugin, prepare
from stillhouse.contract.modes import find_kept_in_eval
from stillhouse.loop.phases import Phase


class Second(nn.Module):
    """A frozen second teacher beside a trained head with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.network = TinyNet().requires_grad_(False).eval()
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3))


@plugin
class Owner(Plugin):
    """Has a module; says its modes where it is measured."""

    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly):
        return Second()

    @hookimpl
    def losses(self, step):
        module = step.module(self)
        with torch.no_grad():
            target = module.network(step.inputs)
        return {"": (module.head(step.student.output) - target).square().mean()}

    @hookimpl
    def evaluated(self, run, split, metrics):
        assert not any(part.training for part in run.module(self).modules()), split


def modes_in_steps(training: Any, part: nn.Module) -> set[bool]:
    seen: set[bool] = set()
    training.run.trainer.add_event_handler(Phase.FORWARD_COMPLETED, lambda: seen.add(part.training))
    training.fit()
    return seen


def test_a_plugins_module_is_in_train_mode_in_steps_and_in_eval_mode_while_measured():
    training = prepare(recipe(), plugins=[Owner()], write=False)
    module = training.run.module("owner")
    seen: dict[str, set[bool]] = {"head": set(), "network": set()}

    def look() -> None:
        for name in seen:
            seen[name].update(part.training for part in getattr(module, name).modules())

    training.run.trainer.add_event_handler(Phase.FORWARD_COMPLETED, look)
    training.fit()
    assert seen == {"head": {True}, "network": {False}}


def test_a_second_teacher_keeps_its_statistics_bit_for_bit():
    training = prepare(recipe(), plugins=[Owner()], write=False)
    network = training.run.module("owner").network
    before = {name: x.clone() for name, x in network.state_dict().items()}
    training.fit()
    assert same_state(before, network.state_dict())


def test_a_batchnorm_of_the_student_that_is_given_in_eval_mode_stays_so_in_every_step():
    student = TinyNet()
    student.norm.eval()
    before = student.norm.running_mean.clone()
    training = prepare(recipe(), student=student, plugins=[], write=False)
    assert "stays in eval mode, as it was given: 'norm'" in training.walk.notes
    assert modes_in_steps(training, student.norm) == {False}
    assert torch.equal(student.norm.running_mean, before)


def test_a_student_that_is_given_in_eval_mode_trains_but_for_what_is_frozen():
    student = TinyNet().eval()
    student.norm.requires_grad_(False)
    training = prepare(recipe(), student=student, plugins=[], write=False)
    assert modes_in_steps(training, student.dropout) == {True}
    assert not training.run.composition.train().student.norm.training


@pytest.mark.parametrize(
    ("prepared", "kept"),
    [
        (lambda m: m, set()),
        (lambda m: m.eval(), set()),
        (lambda m: m.eval().requires_grad_(False), {"", "stem", "norm", "body", "dropout", "head"}),
        (lambda m: m.dropout.eval() and m, {"dropout"}),
    ],
)
def test_what_stays_in_eval_mode_follows_from_how_it_is_given(prepared: Any, kept: set[str]):
    model = TinyNet()
    prepared(model)
    parts = {id(part) for part in find_kept_in_eval(model)}
    assert {name for name, part in model.named_modules() if id(part) in parts} == kept


OWNED = {
    "the student": (lambda a: a.student, "build gave the run's student"),
    "the teacher": (lambda a: a.teacher, "build gave the run's teacher"),
    "a part": (lambda a: a.student.head, "build gave 'head' of the run's student"),
    "a holder": (lambda a: nn.ModuleList([a.teacher]), "build gave a module that holds the run's teacher as '0'"),
    "a parameter": (
        lambda a: nn.ParameterList([a.student.head.weight]),
        "build gave a module that holds 'head.weight' of the run's student as '0'",
    ),
}


@pytest.mark.parametrize("what", OWNED)
def test_a_model_of_the_run_is_nobody_elses(what: str):
    make, says = OWNED[what]

    @plugin
    class Taker(Plugin):
        """Returns what is not its own."""

        requires = ("teacher",)

        @hookimpl
        def build(self, assembly):
            return make(assembly)

    with pytest.raises(StillhouseError) as caught:
        prepare(recipe(), plugins=[Taker()], write=False)
    assert f"plugin 'taker': {says} (" in str(caught.value)


def test_a_copy_of_the_student_is_the_plugins_own():
    @plugin
    class Copier(Plugin):
        """Keeps a frozen copy."""

        @hookimpl
        def build(self, assembly):
            return copy.deepcopy(assembly.student).requires_grad_(False)

    assert prepare(recipe(), plugins=[Copier()], write=False).run.module("copier") is not None
