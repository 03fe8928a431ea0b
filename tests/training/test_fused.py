"""The fused kernels of optimizers on a CPU: chosen where they fit, equal to torch's loop, and never told a wrong stride."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import FIVE, recipe
from torch import nn

from stillhouse import StillhouseError, prepare
from stillhouse.training.fused import choose_fused, take_fused_steps

SGD, ADAMW = torch.optim.SGD, torch.optim.AdamW
OPTIONS: dict[Any, dict[str, Any]] = {
    SGD: {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    ADAMW: {"lr": 0.01, "weight_decay": 0.05},
    torch.optim.Adam: {"lr": 0.01},
    torch.optim.Adagrad: {"lr": 0.05},
}


def train(cls: Any, start: torch.Tensor, gradients: list[torch.Tensor], **more: Any) -> tuple[torch.Tensor, Any]:
    """Where a parameter is after a step with each of ``gradients``."""
    parameter = nn.Parameter(start.clone(memory_format=torch.preserve_format))
    optimizer = cls([parameter], **OPTIONS[cls], **more)
    if more.get("fused"):
        take_fused_steps(optimizer)
    for gradient in gradients:
        parameter.grad = gradient.to(start.dtype)
        optimizer.step()
    return parameter.detach(), optimizer


def make(shape: tuple[int, ...], seed: int, count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("cls", OPTIONS)
@given(shape=st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_a_fused_step_is_the_loops_in_float64(cls: Any, shape: tuple[int, ...], seed: int) -> None:
    start, *gradients = make(shape, seed)
    wanted, _ = train(cls, start.double(), gradients, fused=False, foreach=False)
    found, _ = train(cls, start, gradients, fused=True)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cls", OPTIONS)
def test_gradients_that_lie_otherwise_than_their_parameter_are_laid_like_it(cls: Any) -> None:
    start, *gradients = make((4, 3, 5, 5), 0)
    start = start.to(memory_format=torch.channels_last)
    wanted, _ = train(cls, start, gradients, fused=False)
    found, _ = train(cls, start, gradients, fused=True)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("cls", OPTIONS)
def test_moments_of_another_memory_format_are_laid_like_their_parameter(cls: Any) -> None:
    start, *gradients = make((4, 3, 5, 5), 1)
    ends = []
    for fused in (False, True):
        _, before = train(cls, start, gradients[:2], fused=fused)
        parameter = nn.Parameter(start.to(memory_format=torch.channels_last))
        after = cls([parameter], **OPTIONS[cls], fused=fused)
        if fused:
            take_fused_steps(after)
        after.load_state_dict(copy.deepcopy(before.state_dict()))
        parameter.grad = gradients[2].to(memory_format=torch.channels_last)
        after.step()
        ends.append(parameter.detach())
    torch.testing.assert_close(ends[1], ends[0])


def test_where_the_kernels_fit() -> None:
    class Own(SGD):
        pass

    plain = nn.Linear(3, 2)
    assert choose_fused(ADAMW, {"lr": 0.1}, plain) == {"fused": True}
    assert choose_fused(Own, {}, plain) == {}
    assert choose_fused(torch.optim.RMSprop, {}, plain) == {}
    for chosen in ({"fused": False}, {"foreach": True}, {"differentiable": True}, {"capturable": True}):
        assert choose_fused(ADAMW, chosen, plain) == {}
    assert choose_fused(ADAMW, {}, plain, "float16") == {}
    assert choose_fused(SGD, {}, nn.Embedding(5, 2, sparse=True)) == {}
    assert choose_fused(SGD, {}, plain.to(torch.complex64)) == {}
    assert choose_fused(SGD, {}, nn.Linear(3, 2, device="meta")) == {}
    gaps = nn.Linear(3, 2)
    gaps.weight = nn.Parameter(torch.randn(2, 6)[:, ::2])
    assert choose_fused(SGD, {}, gaps) == {}
    gaps.weight.requires_grad_(requires_grad=False)
    assert choose_fused(SGD, {}, gaps) == {"fused": True}


def test_a_run_has_them_and_a_recipe_chooses_otherwise() -> None:
    usual = prepare(recipe(*FIVE.values()), write=False).run.optimizer
    assert {group["fused"] for group in usual.param_groups} == {True}
    loop = prepare(recipe(*FIVE.values(), optimizer__args={"fused": False}), write=False).run.optimizer
    assert {group["fused"] for group in loop.param_groups} == {False}


def test_a_parameter_with_gaps_is_refused_the_kernel_that_would_walk_over_them() -> None:
    gaps = nn.Parameter(torch.randn(2, 6)[:, ::2])
    with pytest.raises(StillhouseError, match=r"^optimizer.args.fused: .* shape \(2, 3\) has the strides \(6, 2\)"):
        take_fused_steps(SGD([gaps], lr=0.1, fused=True))


# what torch's kernel leaves out, and what is stepped as one


def steps_of(cls: Any, groups: list[dict[str, Any]], *, fused: bool, late: int, steps: int = 5, **options: Any) -> Any:
    """Where two parameters of each group are after some steps; the second one has no gradient before step ``late``."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for group in groups:
        pair = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 2), (4,))]
        made.append({"params": pair, **group})
    optimizer = cls(made, **options, fused=fused)
    if fused:
        take_fused_steps(optimizer)
    parameters = [p for group in made for p in group["params"]]
    for step in range(steps):
        for index, parameter in enumerate(parameters):
            given = torch.randn(parameter.shape, generator=generator)
            parameter.grad = None if index % 2 and step < late else given
        optimizer.step()
    return parameters, optimizer


@pytest.mark.parametrize("late", [0, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
        {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
        {"momentum": 0.9, "dampening": 0.5, "maximize": True},
        {"momentum": 0.0},
    ],
)
def test_a_parameter_whose_first_gradient_comes_late_has_the_loops_momentum(options: dict[str, Any], late: int) -> None:
    groups: list[dict[str, Any]] = [{}, {}]
    wanted, _ = steps_of(SGD, groups, fused=False, late=late, lr=0.1, **options)
    found, _ = steps_of(SGD, groups, fused=True, late=late, lr=0.1, **options)
    for own, loop in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, loop)


@pytest.mark.parametrize("cls", OPTIONS)
@pytest.mark.parametrize("second", [{}, {"lr": 0.02}, {"weight_decay": 0.2}])
def test_groups_that_agree_are_stepped_as_one_and_stay_what_they_are(
    cls: Any, second: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [{"name": "student"}, {"name": "projector", **second}]
    options = OPTIONS[cls]
    wanted, _ = steps_of(cls, groups, fused=False, late=0, **options)
    kernel = f"_fused_{'sgd' if cls is SGD else cls.__name__.lower()}_"
    calls, own_kernel = [0], getattr(torch, kernel)

    def count(*arguments: Any, **more: Any) -> Any:
        calls[0] += 1
        return own_kernel(*arguments, **more)

    monkeypatch.setattr(torch, kernel, count)
    found, optimizer = steps_of(cls, groups, fused=True, late=0, **options)
    for own, loop in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, loop, rtol=1e-5, atol=1e-6)
    assert calls[0] == (10 if second else 5)
    assert [group["name"] for group in optimizer.param_groups] == ["student", "projector"]
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert len(optimizer.state_dict()["param_groups"]) == 2


def test_a_group_that_somebody_adds_is_looked_at_as_well() -> None:
    first, second = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3, 2))
    optimizer = SGD([first], lr=1.0, momentum=0.9, fused=True)
    take_fused_steps(optimizer)
    first.grad = torch.ones(2, 2)
    optimizer.step()
    optimizer.add_param_group({"params": [second]})
    second.grad = torch.arange(6.0).reshape(2, 3).T  # lies otherwise
    optimizer.step()
    torch.testing.assert_close(second.detach(), -torch.arange(6.0).reshape(2, 3).T)


def test_schedulers_and_hooks_of_torch_find_the_step_that_they_know() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = SGD([{"params": [parameter]}, {"params": [nn.Parameter(torch.zeros(1))]}], lr=1.0, fused=True)
    take_fused_steps(optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    seen: list[int] = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    for _ in range(2):
        parameter.grad = torch.ones(2)
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(parameter.detach(), torch.full((2,), -1.1))
    assert seen == [1, 1]
    closed: list[int] = []
    optimizer.step(lambda: closed.append(1) or 0.0)
    assert closed == [1]


@pytest.mark.parametrize("cls", OPTIONS)
@pytest.mark.parametrize("kind", ["column", "expanded"])
def test_gradients_of_vectors_are_laid_as_well(cls: Any, kind: str) -> None:
    start, *rows = make((6,), 0)
    table = torch.stack(rows, 1)
    gradients = [table[:, k] if kind == "column" else table[0, k].expand(6) for k in range(3)]
    wanted, _ = train(cls, start, gradients, fused=False)
    found, _ = train(cls, start, gradients, fused=True)
    torch.testing.assert_close(found, wanted)


def test_a_parameter_that_is_laid_anew_between_steps_takes_its_moments_along() -> None:
    start, *gradients = make((4, 3, 5, 5), 0)
    found = []
    for fused in (False, True):
        parameter = nn.Parameter(start.clone())
        optimizer = SGD([parameter], lr=0.1, momentum=0.9, fused=fused)
        if fused:
            take_fused_steps(optimizer)
        for k, gradient in enumerate(gradients):
            if k == 2:
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
            optimizer.step()
        found.append(parameter.detach())
    torch.testing.assert_close(found[1], found[0])
