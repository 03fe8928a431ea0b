"""step.forward: a second pass of a model in a step, as the first one calls it, and the first stays as it was."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import pytest
import torch
from support import recipe
from torch import nn

from stillhouse import Plugin, StillhouseError, Tap, Weight, hookimpl, plugin, prepare, train

CACHE = {"use": "cache"}


@plugin
class Again(Plugin):
    """Calls a model a second time in one hook, and keeps what came of it in training."""

    requires = ("live teacher",)
    which: str = "student"
    at: str = "losses"
    around: bool = False
    weight: Weight = 1.0
    seen: ClassVar[list[dict[str, Any]]] = []

    @hookimpl
    def add_taps(self, assembly):
        return [Tap("student", "body"), Tap("teacher", "body")]

    @hookimpl
    def build(self, assembly):
        return nn.ModuleDict({"peer": copy.deepcopy(assembly.student).requires_grad_(False)})

    def _call(self, step):
        which = step.module(self)["peer"] if self.which == "own" else self.which
        first = step.teacher if self.which == "teacher" else step.student
        output, features = first.output, dict(first.features)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.around):
            side = step.forward(which, step.inputs)
        if step.student.output.requires_grad:
            stays = first.output is output and all(first.features[k] is v for k, v in features.items())
            self.seen.append({"step": step.iteration, "first": first, "second": side, "stays": stays})
        return side

    @hookimpl
    def transform(self, step):
        if self.at == "transform":
            self._call(step)

    @hookimpl
    def losses(self, step):
        if self.at != "losses":
            return {}
        return {"": self._call(step).output.float().square().mean() + 0 * step.student.output.float().mean()}

    @hookimpl
    def forward_completed(self, step):
        if self.at == "forward_completed":
            self._call(step)

    @hookimpl
    def backward_completed(self, step):
        if self.at == "backward_completed":
            self._call(step)


@pytest.fixture(autouse=True)
def _forget():
    Again.seen.clear()
    yield
    Again.seen.clear()


def settings(**changes: Any) -> Any:
    """Three steps, whose students draw nothing."""
    student = {"model": "support:TinyNet", "args": {"dropout": 0.0}}
    return recipe(run__epochs=1, run__validate_every=9, **{"student": student, **changes})


def steps(instance: Again, **changes: Any) -> tuple[Any, list[dict[str, Any]]]:
    training = prepare(settings(**changes), plugins=[instance], write=False)
    Again.seen.clear()  # of the rehearsed step
    result = training.fit()
    assert [s["step"] for s in Again.seen] == [0, 1, 2]
    assert all(s["stays"] for s in Again.seen)
    return result, Again.seen


@pytest.mark.filterwarnings("ignore:.*gave no loss term")  # it has one in losses alone
@pytest.mark.parametrize("at", ["transform", "losses"])
def test_the_student_answers_again_with_gradient_and_features(at: str):
    result, seen = steps(Again(at=at))
    for s in seen:
        assert s["second"] is not s["first"]
        assert torch.equal(s["second"].output, s["first"].output)
        assert s["second"].output.requires_grad
        assert torch.equal(s["second"].features["body"], s["first"].features["body"])
        assert s["second"].features["body"] is not s["first"].features["body"]
    # As in plain torch: the statistics move with each pass, and the walk has left none.
    assert int(result.student.norm.num_batches_tracked) == 6


@pytest.mark.filterwarnings("ignore:.*gave no loss term")
def test_a_second_pass_takes_part_in_the_backward_pass():
    alone, _ = steps(Again(at="transform"))
    Again.seen.clear()
    together, _ = steps(Again(at="losses"))
    assert not torch.equal(alone.student.body.weight, together.student.body.weight)


def test_the_teacher_answers_again_without_gradient():
    for s in steps(Again(which="teacher"))[1]:
        assert torch.equal(s["second"].output, s["first"].output)
        assert torch.equal(s["second"].features["body"], s["first"].features["body"])
        assert not s["second"].output.requires_grad


def test_a_plugins_own_module_answers_as_the_student_without_features():
    _, seen = steps(Again(which="own"), run__precision="bfloat16")
    assert torch.equal(seen[0]["second"].output, seen[0]["first"].output)  # before the student has moved
    assert not torch.equal(seen[2]["second"].output, seen[2]["first"].output)
    assert seen[0]["second"].output.dtype == torch.bfloat16
    assert seen[0]["second"].features == {}


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize(("which", "dtype"), [("student", torch.bfloat16), ("teacher", torch.float32)])
def test_the_precision_is_that_of_the_first_pass(which: str, dtype: torch.dtype, around: bool):
    speed = {"teacher_precision": "float32"}
    _, seen = steps(Again(which=which, around=around), run__precision="bfloat16", speed=speed)
    assert {s["second"].output.dtype for s in seen} == {s["first"].output.dtype for s in seen} == {dtype}


def test_inputs_of_any_number_of_rows_are_laid_out_as_a_steps():
    @plugin
    class Half(Plugin):
        """Sends half of the batch through the student."""

        weight: Weight = 1.0

        @hookimpl
        def losses(self, step):
            return {"": step.forward("student", step.inputs[:4].expand(-1, 3, -1, -1).contiguous()).output.mean()}

    layouts: set[tuple[int, bool]] = set()
    student = {"model": "support:TinyNet", "args": {"in_channels": 3}}
    data = {"name": "support:tiny_data", "batch_size": 8, "normalize": "none", "channels": 3}
    training = prepare(
        settings(student=student, data=data, speed={"channels_last": True}), plugins=[Half()], write=False
    )
    training.run.student.register_forward_pre_hook(
        lambda m, x: (
            layouts.add((len(x[0]), x[0].is_contiguous(memory_format=torch.channels_last))) if m.training else None
        )
    )
    training.fit()
    assert layouts == {(8, True), (4, True)}


@pytest.mark.parametrize("at", ["forward_completed", "backward_completed"])
def test_other_hooks_are_refused(at: str):
    with pytest.raises(
        StillhouseError, match=r"step\.forward: is called outside of transform, sample_weights, losses"
    ) as e:
        train(settings(), plugins=[Again(at=at)], write=False)
    assert e.value.__notes__ == [f"in plugin 'again', hook {at!r}, epoch 1, step 1"]


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("assistant", "the run has no 'assistant' .it has student, teacher"),
        ("foreign", "a Linear that no plugin's build returned"),
        ("the student", "a TinyNet that no plugin's build returned .a model of the run by its name"),
    ],
)
def test_a_model_that_the_run_does_not_have_is_refused_before_training(which: str, says: str):
    @plugin
    class Lost(Plugin):
        """Calls what is not there."""

        weight: Weight = 1.0

        @hookimpl
        def losses(self, step):
            named = {"foreign": nn.Linear(1, 1), "the student": step.composition.student}
            return {"": step.forward(named.get(which, which), step.inputs).output.mean()}

    with pytest.raises(StillhouseError, match=f"plugin 'lost': losses: step.forward: .*{says}"):
        prepare(settings(), plugins=[Lost()], write=False)


@plugin
class Unasked(Plugin):
    """Calls the teacher without requiring it."""

    weight: Weight = 1.0

    @hookimpl
    def losses(self, step):
        return {"": step.forward("teacher", step.inputs).output.mean() + 0 * step.student.output.mean()}


def test_a_teacher_that_nobody_requires_is_refused():
    """It might not even be trained."""
    with pytest.raises(
        StillhouseError, match=r"calls 'teacher', and no plugin requires a live teacher \(requires = \(\"live"
    ):
        prepare(settings(), plugins=[Unasked()], write=False)
    with pytest.raises(StillhouseError, match="the run has no 'teacher'"):
        prepare(settings(teacher=None), plugins=[Unasked()], write=False)


def test_a_teacher_that_a_cache_stands_in_for_is_refused_before_training():
    from stillhouse_cache import Cache

    says = r"\(cache\): cannot be active together with 'again', which requires a live teacher"
    with pytest.raises(StillhouseError, match=says):
        prepare(settings(), plugins=[Again(which="teacher"), Cache()], write=False)


def test_a_call_that_no_walk_can_see_is_refused_in_its_step():
    @plugin
    class Late(Plugin):
        """Calls the teacher from the second step on, which no walk can see."""

        requires = ("teacher",)
        weight: Weight = 1.0

        @hookimpl
        def losses(self, step):
            if step.iteration == 1:
                step.forward("teacher", step.inputs)
            return {}

    from stillhouse_cache import Cache

    with pytest.raises(StillhouseError, match="no plugin requires a live teacher") as caught:
        train(settings(), plugins=[Late(), Cache()], write=False)
    assert caught.value.__notes__ == ["in plugin 'late', hook 'losses', epoch 1, step 2"]
