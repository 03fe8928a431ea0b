"""The walk before training: what each build sees, what is refused and how, and that nothing is changed by it."""

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


def test_all_missing_layers_are_named_at_once_with_the_nearest():
    links = [{"student": "bdy", "teacher": "body"}, {"student": "body", "teacher": "boddy"}]
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe({**FEATURES, "links": links}, {"use": "spectral", "layer": "hed", "rank": 1}), write=False)
    text = str(caught.value)
    assert "plugin 'features': links[0].student: the student has no layer 'bdy' (did you mean 'body'" in text
    assert "plugin 'features': links[1].teacher: the teacher has no layer 'boddy' (did you mean 'body'" in text
    assert "plugin 'spectral'" in text
    assert "'hed' (did you mean 'head'" in text
    assert len(caught.value.faults) == 3


def test_shapes_that_cannot_meet_name_plugin_link_and_both_shapes():
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe(FEATURES), write=False)
    text = str(caught.value)
    assert "plugin 'features'" in text
    assert "features/body" in text
    assert "(2, 4)" in text
    assert "(2, 6)" in text
    assert "projector" in text


def test_an_orthogonal_projector_down_is_refused_with_advice():
    with pytest.raises(StillhouseError) as caught:
        prepare(
            recipe(FEATURES, {"use": "projector"}, student={"model": "support:TinyNet", "args": {"width": 9}}),
            write=False,
        )
    text = str(caught.value)
    assert "plugin 'projector'" in text
    assert "features/body" in text
    assert "9" in text
    assert "6" in text
    assert "linear" in text


@plugin
class Bad(Plugin):
    """Returns what ``what`` says where a hook wants something else."""

    what: str
    weight: Weight = 1.0

    @hookimpl
    def add_taps(self, assembly):
        return ["body"] if self.what == "taps" else [Tap("student", "body")]

    @hookimpl
    def build(self, assembly):
        return {} if self.what == "build" else None

    @hookimpl
    def losses(self, step):
        if self.what == "losses":
            return step.student.output.mean()
        if self.what == "vector":
            return {"x": step.student.output.mean(0)}
        return {}


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("taps", "add_taps gave 'body' (Tap("),
        ("build", "build gave dict (an nn.Module"),
        ("losses", "losses gave Tensor (a dict"),
        ("vector", "losses: the loss term 'x' is a tensor of shape (3,) (a scalar"),
    ],
)
def test_what_a_hook_may_not_return_is_said(what: str, says: str):
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe(), plugins=[Bad(what=what)], write=False)
    assert f"plugin 'bad': {says}" in str(caught.value)


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


def test_a_link_to_an_untapped_layer_is_refused():
    @plugin
    class Untapped(Plugin):
        """Links what it does not read."""

        @hookimpl
        def add_links(self, assembly):
            return [LinkSpec("x", "body", "body")]

    with pytest.raises(StillhouseError, match="no tap reads"):
        prepare(recipe(), plugins=[Untapped()], write=False)


def test_a_link_that_cannot_be_read_is_named_with_both_shapes():
    links = [{"student": "body", "teacher": "body", "pool": "cls"}]
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe({**FEATURES, "links": links}), write=False)
    place = "plugin 'features': link 'features/body', student (2, 4, 6, 6), teacher (2, 6, 6, 6)"
    assert str(caught.value).startswith(place)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"student": {"model": "support:TinyNet", "args": {"in_channels": 3}}},
            "the student cannot take inputs of shape",
        ),
        (
            {"student": {"model": "support:TinyNet", "args": {"num_classes": 2}}},
            "needs one logit for each of the data's 3 classes, got 2",
        ),
        (
            {"teacher": {"model": "support:TinyNet", "args": {"in_channels": 3}, "random": True}},
            "the teacher cannot take",
        ),
    ],
)
def test_models_that_do_not_fit_the_data_are_refused(changes: dict[str, Any], says: str):
    plugins = [{"use": "logits"}] if "teacher" in changes else []
    with pytest.raises(StillhouseError, match=says):
        prepare(recipe(*plugins, **changes), write=False)


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
