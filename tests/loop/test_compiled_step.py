"""The whole step as one program: the run that it would be otherwise, and what cannot be one said before anything is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from support import FIVE, interrupted, recipe, same_state
from support.speed import SGD, state
from torch import nn

from stillhouse import Plugin, StillhouseError, StillhouseWarning, Weight, hookimpl, plugin, prepare, train
from stillhouse.loop.phases import Phase

NO_DROPOUT = {"model": "support:TinyNet", "args": {"width": 4, "dropout": 0.0}}


@pytest.fixture(autouse=True)
def _forget_compiled():
    yield
    torch._dynamo.reset()


def speed(backend: str = "aot_eager", **more: Any) -> dict[str, Any]:
    return {"compile": "step", "compile_args": {"backend": backend}, **more}


def losses_of(training: Any) -> list[dict[str, float]]:
    """Each step's terms and total, while it is trained."""
    found: list[dict[str, float]] = []

    def note() -> None:
        step = training.run.trainer.state.step
        found.append({name: float(value) for name, value in step.losses.items()} | {"total": float(step.total)})

    training.run.trainer.add_event_handler(Phase.BACKWARD_COMPLETED, note)
    training.fit()
    return found


@pytest.mark.parametrize("which", [["logits"], ["features", "projector"], list(FIVE)])
def test_a_step_that_is_compiled_as_a_whole_is_the_same_step(which: list[str]):
    plugins = [FIVE[name] for name in which]
    changes = {"student": NO_DROPOUT, "optimizer": SGD, "run__epochs": 3}
    eager, compiled = (prepare(recipe(*plugins, **changes, **more), write=False) for more in ({}, {"speed": speed()}))
    wanted, found = losses_of(eager), losses_of(compiled)
    assert [list(step) for step in found] == [list(step) for step in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    for name, value in eager.run.student.state_dict().items():
        torch.testing.assert_close(value, compiled.run.student.state_dict()[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_inductors_losses_are_the_eager_ones_over_fifty_steps():
    changes = {"student": NO_DROPOUT, "optimizer": SGD, "run__epochs": 1, "data__args": {"train": 400}}
    eager = prepare(recipe(*FIVE.values(), **changes), write=False)
    compiled = prepare(recipe(*FIVE.values(), **changes, speed=speed("inductor")), write=False)
    wanted, found = losses_of(eager), losses_of(compiled)
    assert len(found) == 50
    for one, other in zip(found, wanted, strict=True):
        assert one["total"] == pytest.approx(other["total"], rel=1e-5)
        # A small term is the difference of large ones: its own rounding is theirs.
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5 * other["total"])


def test_autocast_scaling_clipping_and_an_average_go_with_it():
    for precision in ("bfloat16", "float16"):
        changes = {
            "student": NO_DROPOUT,
            "optimizer": {**SGD, "clip_norm": 1.0},
            "run__precision": precision,
            "ema": {"decay": 0.5},
        }
        plain = train(recipe(*FIVE.values(), **changes), write=False)
        compiled = train(recipe(*FIVE.values(), **changes, speed=speed()), write=False)
        for name, value in state(plain).items():
            torch.testing.assert_close(value, state(compiled)[name], rtol=2e-2, atol=2e-3)


def test_hooks_after_the_step_find_what_the_models_gave_and_batches_of_another_size_are_compiled_too():
    seen = []

    @plugin
    class Looks(Plugin):
        """Looks at the step after it."""

        @hookimpl
        def optimizer_stepped(self, step):
            side = step.student
            seen.append((tuple(side.output.shape), tuple(side.features["body"].shape), side.output.requires_grad))

    made = recipe(*FIVE.values(), run__epochs=1, data__args={"train": 21}, speed=speed())
    train(made, plugins=[*_listed(made), Looks()], write=False)
    assert seen == [((8, 3), (8, 4, 6, 6), False)] * 2 + [((5, 3), (5, 4, 6, 6), False)]


def _listed(made: Any) -> list[Any]:
    return list(prepare(made, write=False).run.plugins)


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path):
    made = recipe(*FIVE.values(), speed=speed(), checkpoints={"every_steps": 2}, student=NO_DROPOUT)
    whole = train(made, write=False)
    interrupted(prepare(made, out=tmp_path / "run"), at=5)
    again = train(made, out=tmp_path / "run", resume=True)
    assert again.summary["resumed_at_step"] == 4
    assert same_state(state(whole), state(again))


@plugin
class ReadsTheStep(Plugin):
    """A term that depends on which step it is."""

    weight: Weight = 1.0

    @hookimpl
    def losses(self, step):
        return {"": step.student.output.square().mean() * (step.iteration + 1)}


@plugin
class ReplacesABuffer(Plugin):
    """Keeps a mean by putting another tensor in its place."""

    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly):
        module = nn.Module()
        module.register_buffer("mean", torch.zeros(()))
        return module

    @hookimpl
    def losses(self, step):
        module = step.module(self)
        module.mean = module.mean * 0.9 + step.student.output.detach().mean() * 0.1
        return {"": (step.student.output - module.mean).square().mean()}


@plugin
class Listens(Plugin):
    """Is called within the step."""

    @hookimpl
    def forward_completed(self, step):
        step.memo["norm"] = step.student.output.norm()


@pytest.mark.parametrize(
    ("made", "changes", "says"),
    [
        (ReadsTheStep(), {}, "a plugin reads step.iteration, step.epoch, step.ids or the samples' weights"),
        (ReplacesABuffer(), {}, "is replaced in the step, which a compiled one would forget"),
        (Listens(), {}, "forward_completed is called within the step, which is compiled as a whole"),
        (None, {"run__accumulate": 2}, "run.accumulate takes a batch in parts"),
        (ReadsTheStep(weight={"peak": 1.0, "warmup": 0.5}), {}, "a loss weight has a schedule"),
    ],
    ids=["iteration", "buffer", "hook", "parts", "schedule"],
)
def test_what_cannot_be_one_program_is_refused_with_the_reason_or_passed_over(
    made: Any, changes: dict[str, Any], says: str, tmp_path
):
    plugins = [] if made is None else [made]
    with pytest.raises(StillhouseError) as caught:
        train(recipe(**changes, speed=speed()), plugins=plugins, out=tmp_path / "run")
    assert says in str(caught.value)
    assert not (tmp_path / "run").exists()
    plain = train(recipe(**changes), plugins=plugins, write=False)
    with pytest.warns(StillhouseWarning, match="goes on without being compiled"):
        found = train(recipe(**changes, speed=speed(compile_fallback=True)), plugins=plugins, write=False)
    assert same_state(state(plain), state(found))


def test_a_handler_within_the_step_is_refused_and_one_after_it_is_called():
    training = prepare(recipe(speed=speed()), write=False)
    training.run.trainer.add_event_handler(Phase.FORWARD_COMPLETED, lambda: None)
    with pytest.raises(StillhouseError, match="a handler of FORWARD_COMPLETED"):
        training.fit()
    training = prepare(recipe(speed=speed()), write=False)
    called = []
    training.run.trainer.add_event_handler(Phase.LOSSES_COMPUTED, lambda: called.append(1))
    training.run.trainer.add_event_handler(Events.COMPLETED, lambda: called.append(2))
    training.fit()
    assert called == [1] * 6 + [2]
