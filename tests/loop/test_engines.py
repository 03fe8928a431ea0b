"""The ignite engines: events reach hooks and handlers, errors name their plugin."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from ignite.engine import Events
from support import recipe

from stillhouse import Plugin, Weight, hookimpl, plugin, prepare, train
from stillhouse.contract.hookspecs import ObservingHooks
from stillhouse.loop.engines import LeanEngine
from stillhouse.loop.phases import Phase

OBSERVING = [name for name in vars(ObservingHooks) if not name.startswith("_")]


def make_recorder() -> type[Plugin]:
    """A plugin that notes every observing hook that is called, with the gradient mode it saw."""
    calls: list[str] = []

    def hook(name: str) -> Any:
        if name == "exception_raised":

            def call(self: Any, run: Any, error: Any) -> None:
                calls.append(name)
        else:

            def call(self: Any, run: Any) -> None:
                calls.append(name + ("" if torch.is_grad_enabled() else " without gradient"))

        call.__name__ = name
        return hookimpl(call)

    made = plugin(type("Recorder", (Plugin,), {"__doc__": "x", **{n: hook(n) for n in OBSERVING}}))
    made.recorded = calls
    return made


def test_every_event_reaches_the_hook_of_its_name_in_order():
    recorder = make_recorder()
    train(recipe(run__epochs=1), plugins=[recorder()], write=False)
    step = [
        "get_batch_started",
        "get_batch_completed",
        "iteration_started",
        "forward_completed",
        "losses_computed",
        "backward_completed without gradient",
        "optimizer_stepped without gradient",
        "iteration_completed",
    ]
    logged = [*step[:-1], "logged", step[-1]]
    evaluated = "evaluated without gradient"
    assert recorder.recorded == [
        *("started", "epoch_started"),
        *(*step, *logged, *logged),  # of three steps every second one, and the last
        *("epoch_completed", evaluated),
        *(evaluated, "completed"),
    ]


def test_events_off_the_usual_path_reach_their_hooks():
    recorder = make_recorder()
    training = prepare(recipe(run__epochs=2), plugins=[recorder()], write=False)
    trainer = training.run.trainer
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), trainer.terminate_epoch)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), trainer.terminate)
    training.fit()
    assert "terminate_single_epoch" in recorder.recorded
    assert "terminate" in recorder.recorded


@pytest.mark.parametrize("phase", [*Phase, *(e for e in Events if e.name in {"EPOCH_STARTED", "ITERATION_COMPLETED"})])
def test_ignite_handlers_attach_early_and_late(phase: Any):
    seen: list[str] = []
    training = prepare(recipe(run__epochs=2), write=False)
    trainer = training.run.trainer
    trainer.add_event_handler(phase, lambda: seen.append("early"))
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED(once=1), lambda: trainer.add_event_handler(phase, lambda: seen.append("late"))
    )
    training.fit()
    per_epoch = 1 if phase is Events.EPOCH_STARTED else 3
    assert seen.count("early") == 2 * per_epoch
    assert seen.count("late") == per_epoch


def test_a_phase_without_listeners_is_not_fired(monkeypatch: pytest.MonkeyPatch):
    training = prepare(recipe(run__epochs=1, watch={"enabled": False}), write=False)
    fired: list[Any] = []
    trainer = training.run.trainer
    fire = trainer.fire_event
    monkeypatch.setattr(trainer, "fire_event", lambda event: (fired.append(event), fire(event)))
    trainer.add_event_handler(Phase.LOSSES_COMPUTED, lambda: None)
    training.fit()
    assert fired == [Phase.LOSSES_COMPUTED] * 3


@plugin
class Failing(Plugin):
    """Fails in one hook, and notes when it is told of it."""

    hook: str = "transform"
    told: ClassVar[list[str]] = []
    weight: Weight = 1.0

    @hookimpl
    def transform(self, step):
        if self.hook == "transform" and step.iteration == 1:
            raise ZeroDivisionError("on purpose")

    @hookimpl
    def losses(self, step):
        if self.hook == "losses" and step.iteration == 1:
            raise ZeroDivisionError("on purpose")
        return {}

    @hookimpl
    def epoch_started(self, run):
        if self.hook == "epoch_started":
            raise ZeroDivisionError("on purpose")

    @hookimpl
    def exception_raised(self, run, error):
        self.told.append(type(error).__name__)


@pytest.mark.parametrize("hook", ["transform", "losses", "epoch_started"])
def test_an_error_in_a_hook_names_plugin_hook_and_step_and_is_told_once(hook: str):
    Failing.told.clear()
    with pytest.raises(ZeroDivisionError) as caught:
        train(recipe(), plugins=[Failing(hook=hook, name="culprit")], write=False)
    (note,) = caught.value.__notes__
    assert note.startswith(f"in plugin 'culprit', hook {hook!r}, epoch 1")
    assert hook == "epoch_started" or note.endswith("step 2")
    assert Failing.told == ["ZeroDivisionError"]


@pytest.mark.parametrize("when", ["early", "late"])
def test_no_handler_can_swallow_an_exception(when: str):
    training = prepare(recipe(run__epochs=3), plugins=[Failing()], write=False)
    trainer, heard, epochs = training.run.trainer, [], []

    def swallow(_engine: Any, error: Exception) -> None:
        heard.append(str(error))

    if when == "early":
        trainer.add_event_handler(Events.EXCEPTION_RAISED, swallow)
    else:
        trainer.add_event_handler(
            Events.ITERATION_STARTED(once=1), lambda: trainer.add_event_handler(Events.EXCEPTION_RAISED, swallow)
        )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: epochs.append(1))
    with pytest.raises(ZeroDivisionError):
        training.fit()
    assert heard
    assert not epochs


def test_a_handler_with_a_default_argument_gets_what_ignite_gives_and_hooks_get_the_run():
    seen: list[Any] = []

    @plugin
    class Default(Plugin):
        """Its hook has a default argument."""

        @hookimpl
        def started(self, run=None):
            seen.append(run)

    training = prepare(recipe(run__epochs=1), plugins=[Default()], write=False)
    training.fit()
    assert seen in ([training.run], [None])
    assert seen != [training.run.trainer]


@pytest.mark.parametrize("heard", [True, False])
def test_an_event_of_somebodys_own_may_be_a_name(heard: bool):
    engine = LeanEngine(lambda _engine, _batch: None)
    engine.register_events("halfway")
    seen: list[str] = []
    if heard:
        engine.add_event_handler("halfway", lambda: seen.append("heard"))
    engine.add_event_handler(Events.ITERATION_COMPLETED(every=2), lambda: engine.fire_event("halfway"))
    engine.run([0, 1, 2, 3], max_epochs=1)
    assert seen == ["heard", "heard"] * heard
