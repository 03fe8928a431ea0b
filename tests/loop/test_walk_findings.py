"""What the walk finds in students and modules: another output in eval mode, parameters that nothing reaches or that come late."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import TinyNet, recipe
from support.wrong_plugins import out, wrong
from torch import nn

from stillhouse import Plugin, StillhouseError, hookimpl, plugin, prepare


class TwoForms(TinyNet):
    """Gives a probability more in eval mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = super().forward(x)
        return found if self.training else found[:, :2]


def test_a_student_whose_output_has_another_form_in_eval_mode_is_refused():
    says = r"student: its output is float32 \(B, 3\) in train mode and float32 \(B, 2\) in eval mode"
    with pytest.raises(StillhouseError, match=says):
        prepare(recipe(), student=TwoForms(), plugins=[], write=False)


def test_what_is_no_fault_is_a_note():
    class Unused(TinyNet):
        """Has a layer that it does not call."""

        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(2, 2)

    def own(self: Any, step: Any) -> dict[str, torch.Tensor]:
        return {"own": step.module(self).weight.square().sum()}

    training = prepare(
        recipe(), student=Unused(), plugins=[wrong(build=lambda s, a: nn.Linear(2, 2), losses=own)], write=False
    )
    assert training.walk.notes == [
        "no loss term reaches 'spare.weight', 'spare.bias': these parameters stay as they start"
    ]
    assert training.assembly.notes["wrong"] == [
        "no loss term reaches 'bias' of its module",
        "the loss term 'wrong/own' reaches plugins' modules only, not the student",
    ]


def test_buffers_that_a_step_makes_or_resizes_and_gradients_are_as_before():
    def grow(self: Any, step: Any) -> dict[str, torch.Tensor]:
        module = step.module(self)
        module.register_buffer("made", torch.ones(2), persistent=False)
        module.bank.resize_(5).fill_(1.0)
        return {"": out(step).mean()}

    def build(_self: Any, _assembly: Any) -> nn.Module:
        module = nn.Module()
        module.register_buffer("bank", torch.zeros(2), persistent=False)
        return module

    student = TinyNet()
    student.head.bias.grad = torch.full((3,), 7.0)
    training = prepare(recipe(), student=student, plugins=[wrong(build=build, losses=grow)], write=False)
    assert {name: x.tolist() for name, x in training.run.module("wrong").named_buffers()} == {"bank": [0.0, 0.0]}
    assert student.head.bias.grad.tolist() == [7.0, 7.0, 7.0]
    assert all(p.grad is None for name, p in student.named_parameters() if name != "head.bias")


def test_a_parameter_that_is_made_when_the_shapes_are_looked_at_is_refused():
    class Lazy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not hasattr(self, "scale"):
                self.scale = nn.Parameter(torch.ones(x.shape[1]))
            return x * self.scale

    @plugin
    class Scales(Plugin):
        """Makes what it trains when it is first called."""

        requires = ("links",)

        @hookimpl
        def build(self, assembly):
            return Lazy()

        @hookimpl
        def transform(self, step):
            for link in step.match("*"):
                link.student = step.module(self)(link.student)

    tables = recipe(
        {"use": "features", "links": [{"student": "body", "teacher": "body", "pool": "mean"}], "distance": "none"}
    )
    instances = prepare(tables, write=False)
    with pytest.raises(StillhouseError, match=r"plugin 'scales': the parameter 'scale' is made in a step .*in build"):
        prepare(tables, plugins=[*instances.run.plugins, Scales()], write=False)
