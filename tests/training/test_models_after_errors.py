"""The caller's models after an exception, wherever it comes from: no hook of ours, no program of torch.compile's is left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support import FEATURES, TinyNet, recipe
from torch import nn

from stillhouse import Plugin, StillhouseError, Weight, evaluate, hookimpl, load_student, plugin, prepare, train

BEFORE = ("adapt", "add_taps", "build", "add_links", "transform", "losses", "optimizer_options", "metrics")
IN_TRAINING = (
    "started",
    "epoch_started",
    "get_batch_started",
    "prepare_batch",
    "forward_completed",
    "backward_completed",
    "optimizer_stepped",
    "logged",
    "iteration_completed",
    "evaluated",
    "epoch_completed",
    "figures",
    "completed",
)
ERRORS = {"refused": StillhouseError("no"), "error": RuntimeError("no"), "interrupted": KeyboardInterrupt()}


def failing(hook: str, error: BaseException, training: bool) -> Plugin:
    """A plugin whose ``hook`` raises; one of ``training`` gets the run."""

    def fail(*_arguments: Any, **_more: Any) -> Any:
        raise error

    body: dict[str, Any] = {"__doc__": "Fails.", "__module__": __name__}
    if hook == "losses":  # nobody is asked for terms without a weight
        body |= {"__annotations__": {"weight": Weight}, "weight": 1.0}
    arguments = {
        "adapt": "assembly, student",
        "prepare_batch": "step",
        "forward_completed": "run, step",
        "backward_completed": "run, step",
        "optimizer_stepped": "run, step",
        "iteration_completed": "run, step",
        "logged": "run, step, scalars",
        "evaluated": "run, split, metrics",
        "transform": "step",
        "losses": "step",
    }.get(hook, "run" if training else "assembly")
    scope: dict[str, Any] = {"fail": fail}
    exec(f"def {hook}(self, {arguments}):\n    fail()", scope)
    body[hook] = hookimpl(scope[hook])
    return plugin(type("Failing", (Plugin,), body))()


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def features() -> list[Any]:
    from stillhouse_features import Features, LinkOptions
    from stillhouse_projector import Projector

    return [Features(links=[LinkOptions(student="body", teacher="body")]), Projector()]


@pytest.mark.parametrize(
    ("hook", "kind"),
    [(hook, "interrupted") for hook in BEFORE + IN_TRAINING]
    + [(hook, kind) for hook in ("adapt", "build", "losses", "logged") for kind in ("refused", "error")],
)
def test_no_hook_is_left_on_them(hook: str, kind: str, tmp_path: Path):
    student, teacher, further = TinyNet(width=4), TinyNet(width=6), TinyNet(width=5)
    plugins = [*features(), failing(hook, ERRORS[kind], hook in IN_TRAINING)]
    handed: dict[str, Any] = {"student": student, "teacher": teacher, "teachers": {"further": further}}
    with pytest.raises((StillhouseError, RuntimeError, KeyboardInterrupt)):
        train(recipe(run__figures=True), plugins=plugins, out=tmp_path / "run", **handed)
    assert [hooks_of(model) for model in (student, teacher, further)] == [0, 0, 0]
    assert not (tmp_path / "run" / ".training.lock").exists()
    result = train(recipe(), plugins=features(), write=False, **handed)  # they serve again
    assert hooks_of(result.student) == 0


def test_a_layer_that_is_not_there_leaves_no_hook_on_others():
    student, teacher = TinyNet(width=4), TinyNet(width=6)
    with pytest.raises(StillhouseError, match="no layer 'nobody'"):
        prepare(
            recipe({**FEATURES, "links": [*FEATURES["links"], {"student": "nobody", "teacher": "body"}]}),
            student=student,
            teacher=teacher,
            write=False,
        )
    assert hooks_of(student) == hooks_of(teacher) == 0


def test_a_student_handed_over_to_be_filled_is_left_plain(tmp_path: Path):
    train(recipe(), plugins=features(), out=tmp_path / "run", student=TinyNet(width=4))
    for path in (tmp_path / "run" / "checkpoints").glob("*.pt"):
        path.write_bytes(path.read_bytes()[:-7])
    student = TinyNet(width=4)
    for load in (load_student, evaluate):
        with pytest.raises(StillhouseError, match=r"checksum|truncated"):
            load(tmp_path / "run", student=student, plugins=features())
        assert hooks_of(student) == 0


@pytest.mark.skipif(os.name == "nt", reason="torch.compile's eager backend is tried on Unix")
def test_a_compiled_student_is_plain_again():
    student = TinyNet(width=4)
    made = recipe(speed={"compile": "student", "compile_args": {"backend": "eager"}})
    with pytest.raises(RuntimeError, match="no"):
        train(made, student=student, plugins=[failing("epoch_completed", ERRORS["error"], True)], write=False)
    assert student._compiled_call_impl is None
