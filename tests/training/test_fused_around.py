"""What is around a fused step: hooks of torch's, closures, momentum that begins late, sparse gradients, autograd's counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import recipe
from torch import nn

from stillhouse import prepare
from stillhouse.training.fused import take_fused_steps

SGD = torch.optim.SGD


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hook_of_torchs_finds_the_groups_as_they_are(when: str) -> None:
    one, two = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = SGD([{"params": [one]}, {"params": [two]}], lr=0.8, fused=True)
    take_fused_steps(optimizer)

    def halve(own: Any, *_: Any) -> None:
        own.param_groups[1]["lr"] /= 2

    getattr(optimizer, f"register_step_{'pre' if when == 'before' else 'post'}_hook")(halve)
    for _ in range(3):
        one.grad, two.grad = torch.ones(3), torch.ones(3)
        optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.8, 0.1])
    moved = 0.4 + 0.2 + 0.1 if when == "before" else 0.8 + 0.4 + 0.2
    torch.testing.assert_close(two.detach(), torch.full((3,), 1 - moved))


def test_momentum_that_a_closure_has_begun_goes_on() -> None:
    found = []
    for fused in (False, True):
        parameter = nn.Parameter(torch.ones(3))
        optimizer = SGD([parameter], lr=0.1, momentum=0.9, fused=fused)
        if fused:
            take_fused_steps(optimizer)

        def close(parameter: Any = parameter, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = parameter.square().sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(close)
        found.append(parameter.detach())
    torch.testing.assert_close(found[1], found[0])


def test_momentum_that_begins_later_is_given_to_a_gradient_that_comes_later_still() -> None:
    found = []
    for fused in (False, True):
        parameters = [nn.Parameter(torch.ones(2)) for _ in range(2)]
        optimizer = SGD(parameters, lr=0.1, momentum=0.0, fused=fused)
        if fused:
            take_fused_steps(optimizer)
        for k in range(5):
            optimizer.param_groups[0]["momentum"] = 0.9 if k > 1 else 0.0
            parameters[0].grad, parameters[1].grad = torch.ones(2), torch.ones(2) if k > 2 else None
            optimizer.step()
        found.append(torch.cat([p.detach() for p in parameters]))
    torch.testing.assert_close(found[1], found[0])


def test_sparse_gradients_take_torchs_loop_from_then_on() -> None:
    class Table(nn.Module):
        """Looks pixels up in a table; no module says that its gradient is sparse."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(10, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = (x.flatten(1) * 2).long().clamp(0, 9)
            return nn.functional.embedding(found, self.table, sparse=True).mean(1)

    states = []
    for args in ({}, {"fused": False}):
        made = recipe(teacher=None, optimizer={"name": "sgd", "lr": 0.1, "args": args})
        training = prepare(made, student=Table(), write=False)
        states.append(training.fit().student.table.detach())
        assert not training.optimizer.param_groups[0].get("fused")
    torch.testing.assert_close(states[0], states[1])


def test_a_step_is_a_write_that_autograd_hears_of() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = SGD([parameter], lr=0.1, fused=True)
    take_fused_steps(optimizer)
    kept = parameter.square().sum()
    parameter.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()
