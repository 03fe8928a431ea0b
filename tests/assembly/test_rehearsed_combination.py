"""combine_gradients before training: called once, its faults named, nothing applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import torch
from support import TinyNet, recipe, same_state
from support.pcgrad import OPPOSED, PcGrad, conflicting
from torch import Tensor

from stillhouse import Plugin, Recipe, StillhouseError, hookimpl, plugin, prepare
from stillhouse.registry.plugins import plugins_in_use

Gradients = dict[str, Sequence[Tensor]]


@plugin
class Combines(Plugin):
    """Does what it is told to with the gradients."""

    how: ClassVar[Callable[[Any, Gradients], Any]]
    calls: ClassVar[int] = 0

    @hookimpl
    def combine_gradients(self, step, gradients):
        type(self).calls += 1
        return type(self).how(step, gradients)


def prepared(monkeypatch, how: Callable[[Any, Gradients], Any], **models: Any) -> Any:
    monkeypatch.setattr(Combines, "how", staticmethod(how), raising=False)
    monkeypatch.setattr(Combines, "calls", 0)
    return prepare(recipe(), plugins=[Combines()], write=False, **models)


def in_place(gradients: Gradients) -> Sequence[Tensor]:
    gradients["task"][1].mul_(2)
    return gradients["task"]


def on_parameter(step: Any) -> None:
    with torch.no_grad():
        step.parameters[0][1].add_(1)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (lambda s, g: g["task"][1:], "gave 7 gradients, and there are 8 parameters"),
        (lambda s, g: [x[..., :1] for x in g["task"]], r"gave for student\.stem\.weight a tensor of shape"),
        (lambda s, g: None, "gave NoneType"),
        (lambda s, g: [None] * 8, "gave None for every parameter, and nothing would be trained"),
        (
            lambda s, g: [x / 0 * 0 for x in g["task"]],
            r"gave values that are not finite for 'student\.stem\.weight', .* and 4 more, of gradients that are",
        ),
        (lambda s, g: in_place(g), r"changes the gradient of the term 'task' for student\.stem\.bias in place"),
        (lambda s, g: on_parameter(s), r"changes the parameter student\.stem\.weight in place"),
    ],
)
def test_its_faults_are_named_before_training(monkeypatch, how: Any, says: str):
    with pytest.raises(StillhouseError, match=f"^plugin 'combines': combine_gradients: {says}"):
        prepared(monkeypatch, how)


def test_it_is_called_once_and_leaves_no_trace(monkeypatch):
    student = TinyNet()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    prepared(monkeypatch, lambda s, g: g["task"], student=student)
    assert Combines.calls == 1
    assert same_state(before, student.state_dict())
    assert all(p.grad is None for p in student.parameters())


def test_what_it_leaves_without_a_gradient_is_noted(monkeypatch):
    training = prepared(monkeypatch, lambda s, g: [None, *g["task"][1:]])
    assert training.assembly.notes["combines"] == ["combine_gradients gives no gradient for 'student.stem.weight'"]


def test_reached_parameters_are_told_as_without_it():
    tables = conflicting()
    tables["plugins"] = [OPPOSED]
    found = Recipe.from_dict(tables)
    plain = prepare(found, write=False)
    own = [active.plugin for active in plugins_in_use(found.plugins, found.base)]
    combined = prepare(found, plugins=[*own, PcGrad()], write=False)
    assert plain.walk.notes == combined.walk.notes
    assert {s.plugin: s.terms for s in plain.walk.stages}["opposed"] == {
        s.plugin: s.terms for s in combined.walk.stages
    }["opposed"]
