"""Compiled models: the same run in one graph; what cannot be compiled is said before anything is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import FIVE, TinyNet, recipe, same_state
from support.speed import EAGER, SGD, faults, state
from torch import nn

from stillhouse import StillhouseError, StillhouseWarning, prepare, train
from stillhouse.loop.phases import Phase
from stillhouse.loop.taps import Taps
from stillhouse.training.compilation import graph_breaks

NO_DROPOUT = {"model": "support:TinyNet", "args": {"width": 4, "dropout": 0.0}}


@pytest.fixture(autouse=True)
def _forget_compiled():
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("which", ["student", "teacher", "both"])
def test_compiled_models_train_to_the_same_weights(which: str):
    student = {} if which == "teacher" else {"student": NO_DROPOUT}  # a compiled one draws its masks in its graph
    plain = train(
        recipe(*FIVE.values(), **student, speed={"fold_norms": which == "student"}), write=False
    )  # a compiled teacher's are not
    compiled = train(recipe(*FIVE.values(), **student, speed={"compile": which, **EAGER}), write=False)
    assert same_state(state(plain), state(compiled))
    assert plain.metrics == compiled.metrics


def test_a_second_compiled_run_of_the_process_reads_its_own_layers():
    speed = {"compile": "student", **EAGER}
    train(recipe(teacher=None, speed=speed), write=False)
    tapped = train(recipe(FIVE["features"], FIVE["projector"], speed=speed), write=False)
    torch._dynamo.reset()
    alone = train(recipe(FIVE["features"], FIVE["projector"], speed=speed), write=False)
    assert same_state(state(tapped), state(alone))


def test_taps_are_part_of_one_graph_and_read_what_they_read_before():
    training = prepare(
        recipe(*FIVE.values(), speed={"compile": "both", "compile_args": {"backend": "aot_eager", "fullgraph": True}}),
        write=False,
    )
    assert graph_breaks(training.run.student, torch.randn(4, 1, 6, 6)) == []
    seen: list[tuple[Any, int]] = []
    training.run.trainer.add_event_handler(
        Phase.FORWARD_COMPLETED,
        lambda: seen.append(
            (
                training.run.trainer.state.step.student.features["body"].shape,
                torch._dynamo.utils.counters["stats"]["unique_graphs"],
            )
        ),
    )
    training.fit()
    assert [tuple(shape) for shape, _ in seen] == [(8, 4, 6, 6)] * 6
    assert seen[0][1] == seen[2][1], "the first epoch's steps compile nothing anew"


def test_graph_breaks_are_counted():
    class Breaking(nn.Module):
        def forward(self, x):
            x = x + 1
            torch._dynamo.graph_break()
            return x * 2

    assert len(graph_breaks(Breaking(), torch.ones(2))) == 1


def test_compiling_leaves_no_trace_before_training_and_none_after():
    training = prepare(recipe(*FIVE.values(), speed={"compile": "both", **EAGER}), write=False)
    student = training.run.student
    keys, before = list(student.state_dict()), {k: v.clone() for k, v in student.state_dict().items()}
    generator = torch.get_rng_state()
    training._compile()
    assert student._compiled_call_impl is not None
    assert training.run.teacher._compiled_call_impl is not None
    assert list(student.state_dict()) == keys
    assert same_state(student.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(p.grad is None for p in student.parameters())
    exported = training.export()
    assert exported._compiled_call_impl is None
    assert training.run.teacher._compiled_call_impl is None


def test_a_tap_on_a_compiled_model_is_refused():
    model = TinyNet()
    model.compile(backend="eager")
    with pytest.raises(StillhouseError, match="compiled already"):
        Taps(model, "student", ["body"])


class Uncompilable(nn.Module):
    """Works, and is no single graph."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(36, num_classes)

    def forward(self, x):
        torch._dynamo.graph_break()
        return self.head(x.flatten(1))


FULL = {"compile": "student", "compile_args": {"backend": "eager", "fullgraph": True}}


def test_a_failure_to_compile_is_an_error_before_anything_is_written(tmp_path):
    training = prepare(recipe(speed=FULL, teacher=None), student=Uncompilable(), out=tmp_path / "run")
    with pytest.raises(StillhouseError) as caught:
        training.fit()
    (fault,) = caught.value.faults
    assert fault.where == "speed.compile"
    assert "cannot compile the student" in fault.what
    assert "compile_fallback" in fault.hint
    assert "fullgraph = false" in fault.hint
    assert not (tmp_path / "run").exists()


def test_with_compile_fallback_it_goes_on_with_the_same_result():
    torch.manual_seed(0)
    start = Uncompilable().state_dict()

    def run(**changes: Any) -> dict[str, Any]:
        student = Uncompilable()
        student.load_state_dict(start)
        return state(train(recipe(teacher=None, **changes), student=student, write=False))

    with pytest.warns(StillhouseWarning, match="cannot compile the student.*goes on without"):
        fallen = run(speed={**FULL, "compile_fallback": True})
    assert same_state(fallen, run())


def test_what_cannot_be_compiled_is_refused_at_once():
    found = faults({"speed": {"compile": "both", "compile_args": {"backend": "inductr"}}, "teacher": None})
    assert set(found) == {"speed.compile", "speed.compile_args.backend"}
    assert "did you mean 'inductor'" in found["speed.compile_args.backend"]
    assert "no teacher" in found["speed.compile"]


@pytest.mark.slow
def test_inductor_agrees_with_eager():
    settings: dict[str, Any] = {"student": NO_DROPOUT, "optimizer": SGD}
    plain = train(recipe(*FIVE.values(), **settings), write=False)
    fast = train(recipe(*FIVE.values(), **settings, speed={"compile": "both"}), write=False)
    for name, value in state(plain).items():
        torch.testing.assert_close(value, state(fast)[name], rtol=1e-3, atol=1e-4)
