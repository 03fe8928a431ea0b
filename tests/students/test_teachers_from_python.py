"""Finished runs whose teachers came from Python: measured and exported with stand-ins of the same shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ignite.metrics import Metric
from support import TinyNet, recipe
from torch import nn

from stillhouse import (
    Plugin,
    StillhouseError,
    StillhouseWarning,
    Tap,
    Weight,
    evaluate,
    export,
    hookimpl,
    plugin,
    train,
)

STUDENT = {"model": "support:TinyNet", "args": {"width": 4, "dropout": 0.0}}


class Batches(Metric):
    """How many batches were measured."""

    def reset(self) -> None:
        self.n = 0

    def update(self, output: Any) -> None:
        self.n += 1

    def compute(self) -> float:
        return float(self.n)


@plugin
class Hears(Plugin):
    """Builds by the assistant's shape, and gives a metric and an export."""

    requires = ("teacher",)
    weight: Weight = 1.0

    @hookimpl
    def add_taps(self, assembly: Any) -> list[Any]:
        return [Tap("assistant", "body")]

    @hookimpl
    def build(self, assembly: Any) -> nn.Module:
        return nn.Linear(assembly.features["assistant"]["body"].shape[1], 1)

    @hookimpl
    def losses(self, step: Any) -> dict[str, Any]:
        ((_, z),) = step.tapped("assistant", "body")
        return {"": step.module(self)(z.mean((2, 3))).square().mean()}

    @hookimpl
    def metrics(self, assembly: Any) -> dict[str, Metric]:
        return {"batches": Batches(lambda state: (state["output"], state["target"]))}

    @hookimpl
    def export(self, assembly: Any, student: nn.Module) -> nn.Module:
        return student


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    plain = recipe(student=STUDENT, teacher=None)
    teachers = {"assistant": TinyNet(width=4)}
    train(plain, teacher=TinyNet(width=6), teachers=teachers, plugins=[Hears()], out=tmp_path / "run")
    return tmp_path / "run"


def test_a_run_is_measured_and_exported_with_its_teachers_given_again(finished: Path, tmp_path: Path):
    stand_ins: dict[str, Any] = {
        "teacher": TinyNet(width=6),
        "teachers": {"assistant": TinyNet(width=4)},
        "plugins": [Hears()],
    }
    measured = evaluate(finished, **stand_ins)
    assert measured.metrics["test"]["batches"] > 0
    exported = export(finished, tmp_path / "student.safetensors", **stand_ins)
    assert exported.difference <= exported.tolerance


def test_a_teacher_that_is_not_given_again_is_named(finished: Path, tmp_path: Path):
    with pytest.warns(StillhouseWarning, match="the run's assistant came from Python"):
        measured = evaluate(finished, teacher=TinyNet(width=6), plugins=[Hears()])
    assert "batches" not in measured.metrics["test"]
    with pytest.raises(
        StillhouseError, match=r"teacher 'assistant' came from Python.*teachers=\{\"assistant\": module\}"
    ):
        export(finished, tmp_path / "student.safetensors", teacher=TinyNet(width=6), plugins=[Hears()])
    assert not list(tmp_path.glob("student*"))
