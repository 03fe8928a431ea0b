"""The walk before training: what each build sees, and that nothing is changed by it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from support import FEATURES, TinyNet, recipe, same_state
from torch import nn

from stillhouse import LinkSpec, Plugin, StillhouseError, StillhouseWarning, Tap, Weight, hookimpl, plugin, prepare
from stillhouse.seeds import capture


@plugin
class Links(Plugin):
    """Links body with body, unpooled."""

    provides = ("links",)
    student: str = "body"
    weight: Weight = 1.0

    @hookimpl
    def add_taps(self, assembly):
        return [Tap("student", self.student), Tap("teacher", "body")]

    @hookimpl
    def add_links(self, assembly):
        return [LinkSpec("pair", self.student, "body")]

    @hookimpl
    def losses(self, step):
        (link,) = step.match(f"{self.name}/*")
        return {"pair": link.student.mean()}


@plugin
class Widen(Plugin):
    """Adds channels; notes what its build saw."""

    requires = ("links",)
    by: int = 1
    start: float = 0.0

    @hookimpl
    def build(self, assembly):
        module = nn.Module()
        module.saw = {name: tuple(link.student.shape) for name, link in assembly.links.items()}
        module.weight = nn.Parameter(torch.rand(3))
        module.register_buffer("count", torch.zeros(()), persistent=False)
        module.register_buffer("mean", torch.zeros(1))
        return module

    @hookimpl
    def transform(self, step):
        module = step.module(self)
        module.count += 1
        module.mean = module.mean + 1
        for link in step.match("*"):
            link.student = torch.cat([link.student, link.student[:, : self.by]], 1) * module.weight.mean()


def test_each_build_sees_the_shapes_that_reach_it_and_runs_on_at_least_two_samples():
    training = prepare(recipe(), plugins=[Links(), Widen(by=1, name="a"), Widen(by=2, name="b")], write=False)
    assert training.run.module("a").saw == {"links/pair": (2, 4, 6, 6)}
    assert training.run.module("b").saw == {"links/pair": (2, 5, 6, 6)}
    stages = {s.plugin: s.links for s in training.walk.stages}
    assert stages["b"] == {"links/pair": ("(2, 7, 6, 6)", "(2, 6, 6, 6)")}


def test_the_walk_changes_no_buffer_mode_or_generator():
    student, teacher = TinyNet(dropout=0.5), TinyNet(width=6)
    student.register_buffer("hidden", torch.zeros(2), persistent=False)

    def disturb(module: nn.Module, _inputs: Any) -> None:
        module.hidden.add_(torch.rand(2))

    student.register_forward_pre_hook(disturb)
    student.norm.eval()
    before = {n: b.clone() for n, b in student.named_buffers()}
    parameters = {n: p.detach().clone() for n, p in student.named_parameters()}
    modes = {n: m.training for n, m in student.named_modules()}
    generators = capture()
    with pytest.warns(StillhouseWarning, match="student: training changes 'hidden', which no checkpoint holds"):
        training = prepare(recipe(), student=student, teacher=teacher, plugins=[Links(), Widen()], write=False)
    assert same_state(before, dict(student.named_buffers()))
    assert same_state(parameters, dict(student.named_parameters()))
    assert modes == {n: m.training for n, m in student.named_modules()}
    assert same_state(generators, capture())
    assert training.run.module("widen").count == 0
    assert training.run.module("widen").mean == 0
    assert not any(m.training for m in teacher.modules())


def test_the_walk_leaves_no_gradient_and_only_the_rehearsed_step_has_one():
    seen: list[bool] = []
    student = TinyNet()
    student.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    prepare(recipe(), student=student, plugins=[Links()], write=False)
    assert seen == [False, False, True, False, False]  # train mode, eval mode, the rehearsed step, val and test
    assert all(p.grad is None for p in student.parameters())


def test_adding_a_plugin_does_not_change_anothers_start():
    alone = prepare(recipe(), plugins=[Links(), Widen()], write=False)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    both = prepare(recipe(), plugins=[Links(), Widen(name="other"), Widen()], write=False)
    assert torch.equal(alone.run.module("widen").weight, both.run.module("widen").weight)
    assert not torch.equal(both.run.module("other").weight, both.run.module("widen").weight)
    assert same_state(alone.run.student.state_dict(), both.run.student.state_dict())


def test_another_seed_gives_another_start():
    one = prepare(recipe(), plugins=[Links(), Widen()], write=False)
    two = prepare(recipe(run__seed=4), plugins=[Links(), Widen()], write=False)
    assert not torch.equal(one.run.module("widen").weight, two.run.module("widen").weight)


class Odd(nn.Module):
    """Layers that cannot be read as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(1, 1, 3, padding=1)
        self.never = nn.Linear(2, 2)
        self.overwritten = nn.Conv2d(1, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.pair = _Pair()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, 6, 6) -> (B, 3)."""
        x = self.act(self.overwritten(self.twice(self.twice(x))))
        return self.head(self.pair(x.mean((2, 3)))[0])


class _Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C) -> twice (B, C)."""
        return x, x


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("twice", "2 times called"),
        ("never", "not called"),
        ("overwritten", "overwritten in place"),
        ("pair", "gives tuple, not a tensor"),
    ],
)
def test_a_layer_that_cannot_be_read_is_refused_with_the_reason(layer: str, says: str):
    with pytest.raises(StillhouseError, match=says) as caught:
        prepare(recipe(), student=Odd(), plugins=[Links(student=layer)], write=False)
    assert f"student layer {layer!r}" in str(caught.value)


def test_two_plugins_of_a_kind_keep_their_links_apart():
    one = {**FEATURES, "name": "one", "weight": 2.0}
    two = {**FEATURES, "name": "two", "distance": "cosine"}
    training = prepare(
        recipe(
            one,
            two,
            {"use": "projector", "links": "one/*"},
            {"use": "projector", "name": "deep", "kind": "mlp", "links": "two/*"},
        ),
        write=False,
    )
    stages = {s.plugin: s for s in training.walk.stages}
    assert stages["deep"].links == {"one/body": ("(2, 6)", "(2, 6)"), "two/body": ("(2, 6)", "(2, 6)")}
    assert stages["projector"].links["two/body"] == ("(2, 4)", "(2, 6)")
    assert list(stages["one"].terms) == ["one"]
    assert list(stages["two"].terms) == ["two"]
    result = training.fit()
    assert result.metrics["val"]["accuracy"] >= 0
