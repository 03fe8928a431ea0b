"""The student's dropout: the same masks under one seed in the same step, whatever plugins draw, and no price without it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from ignite.engine import Events
from support import TinyNet, recipe
from torch import Tensor, nn

from stillhouse import Plugin, Run, Step, Weight, hookimpl, plugin, prepare, train
from stillhouse.training import student_draws
from stillhouse.training.student_draws import draws


class Masked(TinyNet):
    """Keeps what its dropout left of ones."""

    kept: ClassVar[list[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.kept.append(self.dropout(torch.ones(len(x), 8)).detach())
        return super().forward(x)


@plugin
class Drawing(Plugin):
    """Draws before and behind the student's pass, and keeps what it drew."""

    weight: Weight = 1.0
    drawn: ClassVar[list[float]] = []

    @hookimpl
    def losses(self, step: Step) -> dict[str, Tensor]:
        self.drawn.append(float(torch.rand(())))
        return {"nothing": step.student.output.sum() * 0}

    @hookimpl
    def backward_completed(self, run: Run, step: Step) -> None:
        torch.rand(3)


def masks(*plugins: Any, **changes: Any) -> list[Tensor]:
    Masked.kept = []
    student = {"model": f"{__name__}:Masked", "args": {"dropout": 0.5}}
    train(recipe(*plugins, student=student, teacher=None, run__epochs=2, **changes), write=False)
    return Masked.kept


DRAWING = {"use": f"{__name__}:Drawing", "name": "drawing"}


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) > 2 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_masks_do_not_depend_on_what_plugins_draw(monkeypatch: pytest.MonkeyPatch):
    alone = masks()
    assert same(alone, masks(DRAWING))
    assert len({tuple(mask.flatten().tolist()) for mask in alone}) == len(alone), "each step has its own"
    assert not same(alone, masks(DRAWING, run__seed=4))
    monkeypatch.setattr(student_draws, "draws", lambda _: False)
    assert not same(masks(), masks(DRAWING)), "without it they would"


def test_parts_of_a_batch_have_masks_of_their_own():
    found = masks(run__accumulate=2)
    assert len({tuple(mask[:2].flatten().tolist()) for mask in found}) == len(found)
    assert same(found, masks(DRAWING, run__accumulate=2))


def test_what_plugins_draw_does_not_depend_on_the_students_dropout():
    drawn = []
    for rate in (0.5, 0.1):
        Drawing.drawn = []
        student = {"model": "support:TinyNet", "args": {"dropout": rate}}
        train(recipe(DRAWING, student=student, teacher=None), write=False)
        drawn.append(Drawing.drawn)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == len(drawn[0]) > 1


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_student_that_does_not_draw_has_no_hooks_and_a_run_leaves_none(rate: float):
    training = prepare(
        recipe(student={"model": "support:TinyNet", "args": {"dropout": rate}}, teacher=None, run__epochs=1),
        write=False,
    )
    student = training.run.student
    seen = set()
    training.run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: seen.add((len(student._forward_pre_hooks), len(student._forward_hooks)))
    )
    training.fit()
    assert seen == {(1, 1) if rate else (0, 0)}
    assert not student._forward_pre_hooks
    assert not student._forward_hooks


class StochasticDepth(nn.Module):
    """torchvision's, by its name and its attribute."""

    p = 0.0

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Dropout(0.1), True),
        (nn.Dropout2d(0.0), False),
        (nn.Sequential(nn.Linear(2, 2), nn.AlphaDropout(0.5)), True),
        (nn.LSTM(2, 2, num_layers=2, dropout=0.2), True),
        (nn.LSTM(2, 2), False),
        (nn.MultiheadAttention(4, 2, dropout=0.1), True),
        (nn.TransformerEncoderLayer(4, 2, dropout=0.0), False),
        (nn.RReLU(), True),
        (StochasticDepth(0.2), True),
        (StochasticDepth(0.0), False),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), False),
    ],
)
def test_modules_that_draw_are_known_by_their_rates(module: nn.Module, expected: bool):
    assert draws(module) is expected


def test_timms_stochastic_depth_is_known():
    timm = pytest.importorskip("timm")
    assert draws(timm.layers.DropPath(0.1))
    assert not draws(timm.layers.DropPath(0.0))
