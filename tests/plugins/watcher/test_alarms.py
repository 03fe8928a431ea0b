"""Each alarm in a run that was made sick on purpose, and none of them in one that is well."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import FIVE, TinyNet, recipe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from stillhouse import Plugin, Recipe, Weight, hookimpl, plugin, train
from stillhouse.contract.step import Step
from stillhouse.training.alarms import Alarm, Alarms
from stillhouse_features import Features, LinkOptions
from stillhouse_watcher import Rules

LOOKED: dict[str, Any] = {"run__log_every": 1, "watch": {"every": 1}, "data__args": {"train": 64}}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Models that a test makes are the same whatever ran before."""
    torch.manual_seed(0)


def alarms_of(*plugins: Plugin, **changes: Any) -> dict[str, dict[str, Any]]:
    handed = {key: changes.pop(key) for key in ("student", "teacher") if key in changes}
    made = recipe(**{**LOOKED, **changes})
    return {alarm["kind"]: alarm for alarm in train(made, plugins=plugins, write=False, **handed).summary["alarms"]}


@plugin
class Term(Plugin):
    """A term that pulls the student's output where it is told."""

    weight: Weight = 1.0
    where: str = "away"

    @hookimpl
    def losses(self, step: Step) -> dict[str, Tensor]:
        output = step.student.output
        if self.where == "away":
            return {"": -nn.functional.cross_entropy(output, step.targets)}
        return {"": output.square().mean()}


@plugin
class ZeroMap(Plugin):
    """A projection that its optimizer step turns into zeros."""

    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly) -> nn.Module:
        return nn.Linear(3, 3, bias=False)

    @hookimpl
    def losses(self, step: Step) -> dict[str, Tensor]:
        return {"": step.module(self)(step.student.output).square().mean()}

    @hookimpl
    def optimizer_stepped(self, run, step) -> None:
        run.module(self).weight.zero_()


@plugin
class Collapse(Plugin):
    """Takes what differs between the samples away from the student's side."""

    requires = ("links",)

    @hookimpl
    def transform(self, step: Step) -> None:
        for link in step.match("*"):
            link.student = link.student.mean(dim=0, keepdim=True).expand_as(link.student)


@plugin
class Drifting(Plugin):
    """Calls its map orthogonal, and it is less so in each step."""

    @hookimpl
    def scalars(self, step: Step) -> dict[str, float]:
        return {"orthogonality_error": 1e-6 * 10.0**step.iteration}


PAIRS = Features(links=[LinkOptions(student="body", teacher="body")])


def test_a_term_that_opposes_the_task_is_named():
    alarm = alarms_of(Term(weight=0.5))["opposes the task"]
    assert alarm["about"] == "term"
    assert "cosine -1.00 over" in alarm["what"]
    assert "smaller weight" in alarm["advice"]


def kinds_of(steps: list[int], tag: str, values: list[float]) -> list[str]:
    """The kinds of alarms after looks at these steps of 100 that found these values, and a task's gradient of 1."""
    told = Alarms(SimpleNamespace(say=print))
    rules = Rules(SimpleNamespace(total_steps=100), told)
    for step, value in zip(steps, values, strict=True):
        rules.look_at(step, {"gradient_norm/task": 1.0, tag: value})
    return [alarm.kind for alarm in told]


@pytest.mark.parametrize(
    ("steps", "cosines", "told"),
    [
        ([4, 100], [-1.0, -1.0], True),
        ([4, 100], [-0.45, -0.4], True),
        ([4, 100], [-0.3, -0.3], False),
        ([4, 100], [-1.0, 0.0], False),
        ([4, 35, 70, 100], [-0.3, -0.3, -0.3, -0.3], True),
        ([4, 35, 70, 100], [-0.3, -0.3, 0.1, -0.3], False),
        ([4, 5, 6, 7, 8], [-1.0] * 5, False),  # a twentieth of the run
    ],
)
def test_the_two_looks_of_a_short_run_are_enough_where_they_are_clear(
    steps: list[int], cosines: list[float], told: bool
):
    assert kinds_of(steps, "gradient_cosine/term", cosines) == ["opposes the task"] * told


@pytest.mark.parametrize(
    ("steps", "norms", "told"),
    [
        ([4, 100], [1e3, 1e3], ["dwarfs the task"]),
        ([4, 100], [1e3, 10.0], []),
        ([4, 50], [1e3, 1e3], []),
        ([4, 50, 100], [1e3, 1e3, 10.0], ["dwarfs the task"]),
        ([4, 100], [1e-4, 1e-5], ["does nothing"]),
        ([4, 50], [1e-4, 1e-5], []),
    ],
)
def test_sizes_are_told_after_three_looks_or_at_the_end(steps: list[int], norms: list[float], told: list[str]):
    assert kinds_of(steps, "gradient_norm/term", norms) == told


def test_a_term_that_dwarfs_the_task_is_named_with_what_to_divide_by():
    alarm = alarms_of(Term(where="zero", weight=1e5))["dwarfs the task"]
    assert "times the task's" in alarm["what"]
    assert "divided by" in alarm["advice"]


def test_a_term_that_does_nothing_is_named():
    alarm = alarms_of(Term(where="zero", weight=1e-7))["does nothing"]
    assert "'term' does nothing" in alarm["what"]
    assert "leave the plugin out" in alarm["advice"]


def test_a_projection_that_is_exactly_zero_is_named():
    alarm = alarms_of(ZeroMap())["zero matrix"]
    assert alarm["what"] == "the matrix 'weight' of plugin 'zero_map' is exactly zero: nothing passes through it"


def test_collapsed_features_are_named_beside_the_teachers():
    alarm = alarms_of(PAIRS, Collapse(), teacher=TinyNet(width=4))["collapsed"]
    assert alarm["about"] == "features/body"
    assert "effective rank 0.0" in alarm["what"]


def test_an_orthogonality_error_that_grows_is_named():
    alarm = alarms_of(Drifting())["not orthogonal"]
    assert "grows: 0.001 at first" in alarm["what"]
    assert "retraction" in alarm["advice"]


def test_a_teacher_that_is_worse_than_the_student_is_named():
    teacher = TinyNet(width=6)
    nn.init.zeros_(teacher.head.weight)
    nn.init.constant_(teacher.head.bias, 0.0)
    found = alarms_of(PAIRS, optimizer__lr=0.05, run__epochs=6, teacher=teacher, student=TinyNet(width=6))
    assert "the teacher is worse than the student: val/accuracy 0.3333" in found["weak teacher"]["what"]


def test_a_score_that_does_not_move_is_named():
    alarm = alarms_of(optimizer__lr=1e-12, run__epochs=4)["still"]
    assert "in each of 4 measurements" in alarm["what"]


def test_statistics_of_small_batches_are_named():
    alarm = alarms_of(data__batch_size=4)["small statistics"]
    assert alarm["what"] == "the student has BatchNorm, and a part of a batch has 4 samples in a process"
    assert "run.accumulate" in alarm["advice"]
    assert "small statistics" not in alarms_of(data__batch_size=8)


def healthy(**changes: Any) -> Recipe:
    tables = {
        "run": {"device": "cpu", "epochs": 4, "log_every": 5},
        "data": {"name": "sklearn:digits", "batch_size": 64},
        "student": {"model": "stillhouse.models:convnet", "args": {"width": 8}},
        "teacher": {
            "recipe": {
                "run": {"name": "teacher", "device": "cpu", "epochs": 6},
                "data": {"name": "sklearn:digits", "batch_size": 64},
                "student": {"model": "stillhouse.models:convnet", "args": {"width": 16}},
            }
        },
        "plugins": [
            {"use": "features", "links": [{"student": "stage3", "teacher": "stage3"}]},
            FIVE["normalizer"],
            FIVE["projector"],
            FIVE["logits"],
        ],
        "watch": {"every": 1},
    }
    return Recipe.from_dict({**tables, **changes})


def test_a_healthy_run_on_the_digits_raises_none():
    summary = train(healthy(), write=False).summary
    assert summary["costs"]["looks"] >= 15
    assert summary["alarms"] == []


def test_each_is_said_once_on_the_terminal_in_tensorboard_and_in_the_summary(tmp_path: Path, capsys: Any):
    made = recipe(**LOOKED)
    result = train(made, plugins=[Term(weight=0.5)], out=tmp_path / "run", progress=True)
    (alarm,) = (a for a in result.summary["alarms"] if a["kind"] == "opposes the task")
    assert capsys.readouterr().err.count(f"alarm, step {alarm['step']}: {alarm['what']}; {alarm['advice']}") == 1
    seen = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"tensors": 0})
    seen.Reload()
    texts = [e.tensor_proto.string_val[0].decode() for e in seen.Tensors("alarms/text_summary")]
    assert sum(alarm["what"] in text for text in texts) == 1


def test_a_measure_that_is_to_be_low_is_compared_the_other_way_round():
    told = Alarms(SimpleNamespace(say=print))
    task = SimpleNamespace(score="rmse", score_mode="min")
    rules = Rules(SimpleNamespace(task=task), told)
    rules.measure(3, "val_teacher", {"rmse": 1.0})
    rules.measure(3, "val", {"rmse": 1.5})
    rules.measure(3, "val", {"rmse": float("nan")})
    assert list(told) == []
    rules.measure(6, "val", {"rmse": 0.9})
    assert [alarm.kind for alarm in told] == ["weak teacher"]


def test_the_same_alarm_about_another_thing_is_another():
    told = Alarms(SimpleNamespace(say=lambda _text: None))
    for about in ("a", "b", "a"):
        told.sound(Alarm("still", about, "what", "advice", 1))
    assert [alarm.about for alarm in told.take_new()] == ["a", "b"]
    assert told.take_new() == []


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_features_that_are_not_finite_end_no_look(scale):
    from stillhouse_watcher import compute_effective_rank, measure_matrix

    assert compute_effective_rank(torch.randn(5, 3) * scale).isnan()
    assert all(
        value.isnan() for name, value in measure_matrix(torch.randn(5, 3) * scale).items() if name != "condition"
    )
