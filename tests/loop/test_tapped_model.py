"""The one way to call a model: precision, gradient, output and features; and that taps leave the models."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from support import CLASSES, FEATURES, TinyNet, recipe, same_state
from torch import nn

from stillhouse import Plugin, StillhouseError, Tap, Weight, evaluate, hookimpl, plugin, prepare, train
from stillhouse.loop.tapped_model import TappedModel
from stillhouse.tasks import Classification

PAIR = [FEATURES, {"use": "projector"}]
X = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))


class Wrapped(nn.Module):
    """Returns a dict, as models of libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TinyNet(dropout=0.0)

    def forward(self, x):
        return {"aux": x.sum(), "logits": self.net(x)}


def hooks_on(*models: nn.Module) -> int:
    return sum(len(m._forward_hooks) for model in models for m in model.modules())


def test_a_call_gives_the_output_of_interest_and_the_tapped_features():
    model = TappedModel(Wrapped(), "student", Classification(), ["net.body"])
    side = model(X)
    assert side.output.shape == (4, CLASSES)
    assert side.output.requires_grad
    assert list(side.features) == ["net.body"]
    assert side.features["net.body"].shape == (4, 4, 6, 6)
    assert model.taps.take() == {}


def test_a_frozen_model_is_called_without_gradient():
    side = TappedModel(TinyNet(), "teacher", Classification(), ["body"], frozen=True)(X)
    assert not side.output.requires_grad
    assert not side.features["body"].requires_grad


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("around", [False, True])
def test_the_precision_is_the_models_own_whatever_is_around_it(precision: torch.dtype, around: bool):
    model = TappedModel(TinyNet(), "student", Classification(), ["body"], precision=precision)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=around):
        side = model(X)
    assert side.output.dtype == side.features["body"].dtype == precision


def test_a_released_model_is_gone_and_its_layers_are_still_known():
    net = TinyNet()
    model = TappedModel(net, "teacher", Classification(), ["body", "stem"])
    model.release()
    assert hooks_on(net) == 0
    assert model.model is None
    assert model.match("*") == ["stem", "body"]
    with pytest.raises(StillhouseError, match="teacher: has left memory"):
        model(X)


def test_a_layer_that_is_not_there_leaves_no_tap_behind():
    net = TinyNet()
    with pytest.raises(AttributeError):
        TappedModel(net, "student", Classification(), ["body", "nowhere"])
    assert hooks_on(net) == 0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_tapped_model_writes_into_nobodys_taps(duplicate: Any):
    net = TinyNet().eval()
    model = TappedModel(net, "student", Classification(), ["body"])
    output = duplicate(net)(X)
    assert model.taps.take() == {}
    assert torch.equal(output, model(X).output)


@pytest.mark.filterwarnings("ignore:.*gave no loss term")
def test_a_plugins_copy_of_the_student_is_not_read_as_the_student():
    left: list[Any] = []

    @plugin
    class Copying(Plugin):
        """Calls a copy of the student after the student."""

        weight: Weight = 1.0

        @hookimpl
        def add_taps(self, assembly):
            return [Tap("student", "body")]

        @hookimpl
        def build(self, assembly):
            return copy.deepcopy(assembly.student)

        @hookimpl
        def losses(self, step):
            step.module(self)(step.inputs)
            left.append(dict(step.composition.models["student"].taps.seen))
            return {}

    train(recipe(run__epochs=1), plugins=[Copying()], write=False)
    assert left == [{}] * 4  # once at the walk


# Taps leave the caller's models ---------------------------------------------------------------------------------------


@plugin
class Failing(Plugin):
    """Reads a layer of both models and fails in one hook."""

    requires = ("teacher",)
    hook: str
    weight: Weight = 1.0

    @hookimpl
    def add_taps(self, assembly):
        return [Tap("student", "body"), Tap("teacher", "body")]

    @hookimpl
    def build(self, assembly):
        if self.hook == "build":
            raise StillhouseError("on purpose")
        return nn.Linear(1, 1)

    @hookimpl
    def optimizer_options(self, assembly):
        if self.hook == "optimizer_options":
            raise StillhouseError("on purpose")
        return {}

    @hookimpl
    def losses(self, step):
        if self.hook == "losses" and step.student.output.requires_grad:
            raise KeyboardInterrupt
        return {}


@pytest.mark.parametrize("hook", ["build", "optimizer_options", "losses"])
def test_taps_leave_the_callers_models_where_a_run_fails(hook: str):
    student, teacher = TinyNet(), TinyNet(width=6)
    with pytest.raises((StillhouseError, KeyboardInterrupt)):
        train(recipe(), student=student, teacher=teacher, plugins=[Failing(hook=hook)], write=False)
    assert hooks_on(student, teacher) == 0


def test_taps_leave_where_the_teacher_cannot_be_tapped():
    student, teacher = TinyNet(), nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    teacher.compile(backend="eager")
    links = [{"student": "head", "teacher": "1"}]
    with pytest.raises(StillhouseError, match="the teacher is compiled already"):
        prepare(recipe({"use": "features", "links": links}), student=student, teacher=teacher, write=False)
    assert hooks_on(student, teacher) == 0


def test_taps_leave_when_a_run_is_closed_untrained():
    student, teacher = TinyNet(), TinyNet(width=6)
    training = prepare(recipe(*PAIR), student=student, teacher=teacher, write=False)
    assert hooks_on(student, teacher) == 2
    training.close()
    assert hooks_on(student, teacher) == 0


def test_taps_leave_a_student_that_was_measured(tmp_path: Path):
    @plugin
    class Measuring(Plugin):
        """Taps the student, and gives a metric, so that measuring builds it."""

        @hookimpl
        def add_taps(self, assembly):
            return [Tap("student", "body")]

        @hookimpl
        def metrics(self, assembly):
            return {}

    trained = train(recipe(run__epochs=1), student=TinyNet(), plugins=[Measuring()], out=tmp_path / "run")
    again = TinyNet()
    evaluate(tmp_path / "run", student=again, plugins=[Measuring()], split="val")
    assert hooks_on(again) == 0
    assert same_state(again.state_dict(), trained.student.state_dict())
