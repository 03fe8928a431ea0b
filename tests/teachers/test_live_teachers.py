"""Teachers that plugins call, that leave, or that a cache serves, beside others that run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import TinyNet, recipe
from support.assistants import BOTH, SECOND, STUDENT, prepare, trained, two

from stillhouse import Plugin, StillhouseError, Weight, hookimpl, plugin, train
from stillhouse.contract.step import Side
from stillhouse.training.explanation import describe


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cache_serves_the_teacher_and_the_others_run():
    class Counts(TinyNet):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            type(self).calls += 1
            return super().forward(x)

    class Assistant(Counts):
        calls = 0

    def fit(*plugins: Any) -> Any:
        torch.manual_seed(0)
        teacher, assistant = Counts(width=6), Assistant()
        training = prepare(
            recipe(*plugins, *BOTH, student=STUDENT, teacher=None, watch={"enabled": False}),
            teacher=teacher,
            teachers={"assistant": assistant},
        )
        Counts.calls = Assistant.calls = 0
        return training, training.fit()

    live, plain = fit()
    assert (Counts.calls, Assistant.calls) == (6, 6)
    cached, served = fit({"use": "cache", "store": "float32"})
    assert (Counts.calls, Assistant.calls) == (0, 6)
    assert live.run.teacher is not None
    assert cached.run.teacher is None
    assert set(cached.run.teachers) == {"assistant"}
    for key, value in plain.student.state_dict().items():
        assert torch.allclose(value.float(), served.student.state_dict()[key].float(), atol=1e-5), key
    notes = describe(cached)["plugins"][0]["notes"]
    assert "assistant: not served, and run in every step" in notes


@plugin
class Calls(Plugin):
    """Calls a teacher a second time."""

    requires = ("live teacher",)
    which: str = "teacher"
    weight: Weight = 1.0

    @hookimpl
    def losses(self, step):
        side = step.forward(self.which, step.inputs)
        return {"": (step.student.output - side.output).square().mean()}


@plugin
class Done(Plugin):
    """Has read what it needs of the teacher."""

    requires = ("teacher",)
    for_all: bool = False

    @hookimpl
    def build(self, assembly):
        assembly.release_teacher(self, for_all=self.for_all)

    @hookimpl
    def teacher_forward(self, step):
        if self.for_all:
            step.teacher = Side(torch.zeros(len(step.inputs), 3))
            return True
        return None


@pytest.mark.parametrize("which", ["teacher", "assistant"])
def test_a_live_teacher_can_be_called(which: str):
    assert train(two(), plugins=[Calls(which=which)], write=False).metrics["test"]


def test_a_live_teacher_is_refused_beside_a_cache_before_anything_is_trained(own_cache: Path):
    from stillhouse_cache import Cache

    says = r"\(cache\): cannot be active together with 'calls', which requires a live teacher"
    with pytest.raises(StillhouseError, match=says):
        prepare(two(teacher={"recipe": trained(6)}), plugins=[Cache(), Calls()])
    assert not own_cache.exists()


def test_a_live_teacher_is_refused_where_the_teacher_would_leave():
    says = r"plugin 'calls': requires a live teacher, .* leaves memory before training: 'done' stands in for it"
    with pytest.raises(StillhouseError, match=says):
        prepare(two(), plugins=[Done(for_all=True), Calls()])
    training = prepare(two(), plugins=[Done(), Calls()])
    assert training.run.teacher is not None


def test_all_teachers_leave_where_no_plugin_needs_one():
    training = prepare(two(), plugins=[Done()])
    assert (training.run.teacher, training.run.teachers) == (None, {})
    assert training.fit().metrics["test"]
    with_second = prepare(two(SECOND), plugins=None)
    assert with_second.run.teacher is not None


def test_a_live_teacher_needs_a_teacher():
    with pytest.raises(StillhouseError, match="needs a teacher, and the run has none"):
        prepare(recipe(teacher=None), plugins=[Calls()])
