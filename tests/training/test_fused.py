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
from stillhouse.training.fused import choose_fused, keep_layouts

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
        keep_layouts(optimizer)
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
            keep_layouts(after)
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
        keep_layouts(SGD([gaps], lr=0.1, fused=True))
