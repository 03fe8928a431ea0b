"""The projector as a plugin: which links and sides it projects, refusals, names, options, state."""

# mypy: disable-error-code="no-untyped-call"
# torch's stubs leave Tensor.backward and TorchDispatchMode untyped.

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import FEATURES, assembly_of, recipe
from support.projections import built, make_step, pair, weight_of
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from stillhouse import Link, StillhouseError, StillhouseWarning, prepare
from stillhouse_projector import Projector, Projectors, draw_haar, measure_orthogonality_error, retract
from stillhouse_projector.projectors import make_key, restore_name

torch.set_num_threads(1)

QUICK = settings(derandomize=True, deadline=None, max_examples=40)
ORTHOGONAL_MAPS = ("retraction", "matrix_exp", "cayley")


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_transform_rewrites_one_side_and_both_networks_can_learn(side: Any) -> None:
    torch.manual_seed(0)
    plugin = Projector(kind="linear", side=side)
    link = pair(5, 8)
    module = built(plugin, link)
    link = pair(5, 8)
    student, teacher = link.student.requires_grad_(), link.teacher
    plugin.transform(make_step(module, [link]))
    width = 8 if side == "student" else 5
    assert link.student.shape == link.teacher.shape == (4, width)
    kept = link.teacher is teacher if side == "student" else link.student is student
    assert kept, "the other side is untouched"
    (link.student - link.teacher).square().mean().backward()
    assert student.grad is not None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def test_links_are_chosen_by_glob() -> None:
    links = [pair(5, 8, "features/a"), pair(5, 8, "features/b")]
    plugin = Projector(links="features/b")
    module = built(plugin, *links)
    assert [restore_name(k) for k in module.maps] == ["features/b"]
    plugin.transform(make_step(module, links))
    assert links[0].student.shape == (4, 5)
    assert links[1].student.shape == (4, 8)


@pytest.mark.parametrize("d_s", [8, 3])
def test_orthogonal_projection_of_the_teacher(d_s: int) -> None:
    """Upwards an isometry. Downwards Z_t P with P^T P = I, whose inner products with Z_s are those of VkD's loss."""
    torch.manual_seed(0)
    plugin = Projector(side="teacher")
    link = pair(d_s, 5)
    module = built(plugin, link)
    z_s, z_t = link.student.double(), link.teacher.double()
    plugin.transform(make_step(module, [link]))
    weight = weight_of(module.maps[make_key(link.name)])
    assert weight.shape == (d_s, 5)
    assert measure_orthogonality_error(weight) < 1e-6
    mapped = link.teacher.detach().double()
    if d_s >= 5:
        assert torch.allclose(mapped @ mapped.mT, z_t @ z_t.mT, atol=1e-5)
        return
    p = weight.double().mT
    assert torch.allclose(p.mT @ p, torch.eye(d_s).double(), atol=1e-6)
    inverted, vkd = (mapped - z_s).square().sum(), (z_s @ p.mT - z_t).square().sum()
    outside = (z_t - z_t @ p @ p.mT).square().sum()
    assert torch.allclose(inverted, vkd - outside, atol=1e-4)


def test_going_down_is_refused_for_every_link_at_once() -> None:
    links = [pair(8, 5, "features/a"), pair(5, 5, "features/b"), pair(9, 4, "features/c")]
    with pytest.raises(StillhouseError) as caught:
        Projector().build(assembly_of(links))
    text = str(caught.value)
    assert len(caught.value.faults) == 2
    for part in ("features/a", "features/c", "teacher's 5 channels, got 8", "teacher's 4 channels, got 9"):
        assert part in text
    for advice in ('side = "teacher"', 'kind = "linear"', "teacher layer"):
        assert advice in text
    built(Projector(kind="linear"), *links)
    built(Projector(side="teacher"), *links)


def test_bad_input_is_named() -> None:
    with pytest.raises(StillhouseError, match="hidden: must be >= 1, got 0"):
        Projector(kind="mlp", hidden=0)
    with pytest.raises(StillhouseError, match=r"must be one of .*, got 'orthogonl'"):
        Projector(kind="orthogonl")  # type: ignore[arg-type]
    with pytest.warns(StillhouseWarning, match="hidden = 4 has no effect"):
        Projector(hidden=4)
    with pytest.warns(StillhouseWarning, match="map = 'cayley' has no effect"):
        Projector(kind="linear", map="cayley")
    with pytest.raises(StillhouseError, match="'nothing' matches no link"):
        Projector(links="nothing").build(assembly_of([pair(5, 8)]))
    with pytest.raises(StillhouseError, match=r"'features/a'.*must be vectors"):
        Projector().build(assembly_of([Link("features/a", torch.randn(4), torch.randn(4, 2))]))
    with pytest.raises(StillhouseError, match="got 3 dimensions"):
        retract(torch.zeros(2, 3, 4))
    with pytest.raises(StillhouseError, match="got 0 and 3"):
        draw_haar(3, 0)
    project = built(Projector(), pair(5, 8))
    with pytest.raises(StillhouseError, match=r"'features/z'.*has no projection"):
        project("features/z", torch.randn(2, 5))
    with pytest.raises(StillhouseError, match=r"the projection's 5 channels, got shape \(2, 6\)"):
        project("features/a", torch.randn(2, 6))


@QUICK
@given(st.lists(st.text(alphabet="a.%/2E5:k", max_size=8), unique=True, min_size=1))
def test_link_names_become_distinct_module_keys(names: list[str]) -> None:
    project = Projectors({name: nn.Linear(2, 2) for name in names}, dict.fromkeys(names, 2))
    assert len(project.maps) == len(names)
    assert [restore_name(key) for key in project.maps] == names


def test_awkward_names_work_as_keys() -> None:
    links = [pair(3, 4, name) for name in ("features/stage3.conv", "keys", "features/stage3%2Econv", "training")]
    project = built(Projector(), *links)
    assert set(project.measure_orthogonality_errors()) == {link.name for link in links}
    assert project("keys", torch.randn(2, 3)).shape == (2, 4)


def test_options_of_the_optimizer_and_scalars() -> None:
    link = pair(5, 8)
    plugin = Projector()
    assert plugin.optimizer_options(assembly_of([link])) == {"weight_decay": 0.0}
    module = built(plugin, link)
    found = plugin.scalars(make_step(module, [link]))
    assert list(found) == ["orthogonality_error/features/a"]
    assert found["orthogonality_error/features/a"].ndim == 0
    assert found["orthogonality_error/features/a"] < 1e-6
    with torch.no_grad():
        next(module.parameters()).mul_(1.1)
    assert abs(plugin.scalars(make_step(module, [link]))["orthogonality_error/features/a"] - 0.21) < 1e-5


def test_a_map_that_nothing_keeps_orthogonal_costs_no_step_a_hook() -> None:
    for kind, heard in (("orthogonal", True), ("linear", False), ("mlp", False)):
        training = prepare(recipe(FEATURES, {"use": "projector", "kind": kind}), write=False)
        hooks = training.walk.hooks
        for hook in ("optimizer_stepped", "scalars"):
            assert ("projector" in [owner.name for owner, _ in hooks.calls(hook)]) == heard
        assert "projector" in [owner.name for owner, _ in hooks.calls("transform")]


class NoHostRead(TorchDispatchMode):
    """Fails where a tensor's value is read back."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "local_scalar_dense" not in str(func), "a tensor's value was read back in the step"
        return func(*args, **(kwargs or {}))


def test_nothing_in_the_step_reads_a_value_back() -> None:
    link = pair(5, 8)
    plugin = Projector()
    module = built(plugin, link)
    step = make_step(module, [link])
    with NoHostRead():
        plugin.transform(step)
        plugin.optimizer_stepped(step)
        plugin.scalars(step)


@pytest.mark.parametrize("which", ORTHOGONAL_MAPS)
def test_state_is_all_in_the_module(which: Any) -> None:
    torch.manual_seed(0)
    link = pair(5, 8)
    first, second = built(Projector(map=which), link), built(Projector(map=which), link)
    x = torch.randn(3, 5)
    assert not torch.equal(first(link.name, x), second(link.name, x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(link.name, x), second(link.name, x))
