"""Weights and answers that are not finite are refused by name, in every model and before training."""

from __future__ import annotations

import math

import pytest
import torch
from support import TinyNet, recipe
from torch import nn

from stillhouse import Plugin, StillhouseError, evaluate, hookimpl, plugin, prepare, train
from stillhouse.models.checkpoint_file import read_checkpoint, write_checkpoint


def damaged(value: float, name: str = "body.weight") -> TinyNet:
    model = TinyNet(width=6)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[1] = value
    return model


def test_weights_that_are_not_finite_are_refused_by_name_in_every_model():
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe(), student=damaged(math.inf), teacher=damaged(math.nan, "head.bias"), plugins=[], write=False)
    assert [str(f).partition(" (")[0] for f in caught.value.faults] == [
        "student: its weights hold values that are not finite: 'body.weight'",
        "teacher: its weights hold values that are NaN: 'head.bias'",
    ]


def test_a_plugins_weights_are_looked_at_too():
    @plugin
    class Broken(Plugin):
        @hookimpl
        def build(self, assembly):
            module = nn.Linear(2, 2)
            module.register_buffer("empty", torch.full((2,), math.nan))
            nn.init.constant_(module.bias, math.inf)
            return module

    with pytest.raises(
        StillhouseError, match="plugin 'broken': build gave a module whose 'bias' holds values that are"
    ):
        prepare(recipe(), plugins=[Broken()], write=False)


def test_a_teacher_that_answers_with_nan_is_refused_and_one_with_infinities_is_not():
    class Answers(TinyNet):
        value = math.nan

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([super().forward(x)[:, :2], torch.full((len(x), 1), self.value)], 1)

    with pytest.raises(StillhouseError, match="teacher: its output for the first samples is NaN"):
        prepare(recipe({"use": "logits"}), teacher=Answers(), write=False)
    masked = Answers()
    masked.value = -math.inf
    assert math.isfinite(train(recipe({"use": "logits"}), teacher=masked, write=False).metrics["test"]["loss"])


def test_an_evaluated_run_says_of_its_weights_where_the_nan_is(tmp_path):
    run = train(recipe(), plugins=[], out=tmp_path / "run").folder
    (path,) = (run / "checkpoints").glob("last_*.pt")
    saved = read_checkpoint(path, "")
    saved["model"]["student.head.bias"][0] = math.nan
    write_checkpoint(path, saved)
    with pytest.raises(StillhouseError, match=r"holds NaN in head\.bias"):
        evaluate(run, weights="last")
