"""Models before training: their answers in train and eval mode, what a checkpoint would lack, what is shared."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from support import FEATURES, TinyNet, recipe
from torch import nn

from stillhouse import Plugin, StillhouseError, StillhouseWarning, Weight, hookimpl, plugin, prepare, train
from stillhouse.contract.step import Side


class TupleMeasured(TinyNet):
    """Gives its features as well in eval mode."""

    def forward(self, x: torch.Tensor) -> Any:
        found = super().forward(x)
        return found if self.training else (found, x.mean())


class DictMeasured(TinyNet):
    """Gives a list in train mode and a dict in eval mode."""

    def forward(self, x: torch.Tensor) -> Any:
        found = super().forward(x)
        return [found, x.mean()] if self.training else {"logits": found}


class LostMeasured(TinyNet):
    """Gives a dict in eval mode in which nobody can tell the output."""

    def forward(self, x: torch.Tensor) -> Any:
        found = super().forward(x)
        return found if self.training else {"scores": found}


@pytest.mark.parametrize("model", [TupleMeasured, DictMeasured])
def test_a_tuple_or_dict_in_one_mode_is_read_in_that_mode(model: type[TinyNet]):
    torch.manual_seed(0)
    plain = TinyNet()
    other = model()
    other.load_state_dict(plain.state_dict())
    expected = train(recipe(), student=plain, plugins=[], write=False)
    assert train(recipe(), student=other, plugins=[], write=False).metrics == expected.metrics


def test_an_output_in_eval_mode_that_cannot_be_told_is_refused_before_training():
    with pytest.raises(StillhouseError, match="student: returns a dict of scores"):
        prepare(recipe(), student=LostMeasured(), plugins=[], write=False)


class TwoHeads(TinyNet):
    """DeiT's form: two heads, of which the task's loss sees one, and their mean where it is measured."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.norm(self.stem(x))).mean((2, 3))
        both = self.head(x), self.second(x)
        return both if self.training else (both[0] + both[1]) / 2


def test_a_head_without_gradient_that_the_measured_output_needs_is_warned_of():
    says = "student: no loss term reaches 'second.weight', 'second.bias', and its output in eval mode is computed from them"
    with pytest.warns(StillhouseWarning, match=says):
        training = prepare(recipe(), student=TwoHeads(), plugins=[], write=False)
    assert any(note.startswith(says) for note in training.walk.notes)


def test_a_buffer_that_changes_and_is_not_saved_is_warned_of():
    class Running(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(4), persistent=False)
            self.register_buffer("table", torch.zeros(1), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.norm(self.stem(x))).mean((2, 3))
            self.table = torch.arange(float(len(x)))  # follows from the batch's size alone
            if self.training:
                self.scale.mul_(0.5).add_(0.5 * x.detach().mean(0))
            return self.head(x / self.scale)

    with pytest.warns(StillhouseWarning, match=r"student: training changes 'scale', which no checkpoint holds") as told:
        prepare(recipe(), student=Running(), plugins=[], write=False)
    assert len(told) == 1  # the table follows from the batch


class Made(TinyNet):
    """Registers a buffer in its first forward pass."""

    persistent = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "grid"):
            self.register_buffer("grid", torch.zeros(x.shape[2:]), persistent=self.persistent)
        return super().forward(x + self.grid)


class Growing(TinyNet):
    """Has a buffer that takes its shape from the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.bank = x.detach().flatten()
        return super().forward(x)


@pytest.mark.parametrize(
    ("student", "says"),
    [
        (Made, "student: the buffer 'grid' is made in a step: a checkpoint of it could not be loaded"),
        (Growing, r"student: the buffer 'bank' changes its shape in a step, from \(1,\) to \(72,\)"),
    ],
)
def test_state_that_a_step_makes_or_resizes_is_refused_before_training(student: Any, says: str):
    with pytest.raises(StillhouseError, match=says):
        prepare(recipe(), student=student(), plugins=[], write=False)


def test_a_buffer_that_is_made_and_not_saved_is_nobodys_business():
    student = Made()
    student.persistent = False
    prepare(recipe(), student=student, plugins=[], write=False)
    assert not hasattr(student, "grid")


def test_a_plugins_module_is_looked_at_likewise():
    @plugin
    class Grows(Plugin):
        weight: Weight = 1.0

        @hookimpl
        def build(self, assembly):
            module = nn.Linear(3, 3)
            module.register_buffer("queue", torch.zeros(0))
            module.register_buffer("seen", torch.zeros(()), persistent=False)
            return module

        @hookimpl
        def losses(self, step):
            module = step.module(self)
            module.seen += 1
            module.queue = torch.cat([module.queue, module.seen[None]])
            return {"": module(step.student.output).square().mean()}

    with pytest.raises(StillhouseError, match=r"plugin 'grows': the buffer 'queue' changes its shape in a step"):
        prepare(recipe(), plugins=[Grows()], write=False)


class Probable(TinyNet):
    """Ends in a softmax."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).softmax(1)


def test_outputs_that_are_probabilities_already_are_warned_of():
    with pytest.warns(StillhouseWarning, match=r"^student: its outputs are probabilities already, .* takes logits"):
        prepare(recipe(), student=Probable(), plugins=[], write=False)
    says = (
        r"^teacher: its outputs are probabilities already, between 0 and 1 with the sum 1; plugin 'logits' reads them"
    )
    with pytest.warns(StillhouseWarning, match=says):
        prepare(recipe({"use": "logits"}), teacher=Probable(), write=False)


def test_a_teacher_of_which_layers_alone_are_read_may_give_probabilities():
    training = prepare(recipe(FEATURES, {"use": "projector"}), teacher=Probable(width=6), write=False)
    assert training.walk.outputs_read == {}
    assert not any("probabilities" in note for note in training.walk.notes)


@plugin
class Reads(Plugin):
    """Reads what it is told to of both teachers."""

    requires = ("teacher",)
    weight: Weight = 1.0
    what: str = "output"

    @hookimpl
    def losses(self, step):
        sides = [step.teacher, step.side("second")]
        assert all(isinstance(side, Side) for side in sides)
        with pytest.raises(StillhouseError, match=re.escape("side.output: cannot be written here")):
            sides[0].output = None
        found = [getattr(side, self.what) for side in sides]
        read = sum(x.mean() for x in found) if self.what == "output" else len(found[0])
        return {"": step.student.output.mean() * (1 + read)}


@pytest.mark.parametrize("what", ["output", "features"])
def test_the_walk_knows_whose_output_is_read_and_by_whom(what: str):
    teachers = {"second": TinyNet(width=6)}
    training = prepare(recipe(), plugins=[Reads(what=what)], teachers=teachers, write=False)
    assert training.walk.outputs_read == ({"teacher": "reads", "second": "reads"} if what == "output" else {})
    training.fit()


def test_models_that_share_a_module_are_refused_by_name():
    one, two = TinyNet(width=6), TinyNet(width=6)
    two.body = one.body
    with pytest.raises(
        StillhouseError, match=r"second: teacher and second share the module 'body' .second: 'body'."
    ) as told:
        prepare(recipe(), teacher=one, teachers={"second": two}, plugins=[], write=False)
    assert "copy.deepcopy" in str(told.value)
    with pytest.raises(StillhouseError, match="second: teacher and second share the module 'itself'"):
        prepare(recipe(), teacher=one, teachers={"second": one}, plugins=[], write=False)
    student = TinyNet()
    student.body = one.body
    with pytest.raises(StillhouseError, match="second: student and second share the module 'body'"):
        prepare(recipe(), student=student, teachers={"second": copy.copy(two)}, plugins=[], write=False)


def test_a_plugin_whose_losses_give_nothing_is_noted_in_the_walk():
    @plugin
    class Silent(Plugin):
        weight: Weight = 1.0

        @hookimpl
        def losses(self, step):
            return {}

    training = prepare(recipe(), plugins=[Silent()], write=False)
    assert training.assembly.notes["silent"] == ["losses gave no term in the rehearsed step"]


def test_outputs_beyond_the_datas_classes_are_told_of():
    with pytest.warns(
        StillhouseWarning, match=r"^student: has 20 outputs, and the data 10 classes: .*num_classes = 10"
    ):
        prepare(recipe(student__args={"num_classes": 20}, data={"name": "sklearn:digits"}), write=False)
