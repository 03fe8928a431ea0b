"""Corners of the engines' events: names of other kinds, filters on phases, StopIteration, a training that has ended."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest
from ignite.engine import Engine
from support import FEATURES, recipe

from stillhouse import Plugin, StillhouseError, hookimpl, plugin, prepare
from stillhouse.loop.engines import LeanEngine
from stillhouse.loop.phases import Phase


class Named(StrEnum):
    """Events of somebody's own, as text."""

    FOO = "foo_happened"


@pytest.mark.parametrize("kind", [Engine, LeanEngine])
def test_an_event_of_a_text_enumeration_is_heard_by_member_and_by_text(kind: type[Engine]):
    heard: list[int] = []

    def step(engine: Engine, batch: int) -> None:
        engine.fire_event(Named.FOO)
        engine.fire_event("foo_happened")

    engine = kind(step)
    engine.register_events(*Named)
    engine.add_event_handler(Named.FOO, lambda: heard.append(1))
    engine.run([0])
    assert len(heard) == 2


@pytest.mark.parametrize("phase", Phase)
def test_a_phase_takes_ignites_filters(phase: Any):
    training = prepare(recipe(run__epochs=2), write=False)
    seen: dict[str, list[int]] = {"every": [], "once": [], "filter": []}
    for kind, event in (("every", phase(every=2)), ("once", phase(once=3)), ("filter", phase(lambda _, n: n == 5))):
        note = seen[kind].append
        training.run.trainer.add_event_handler(event, lambda engine, note=note: note(engine.state.iteration))
    training.fit()
    assert seen == {"every": [2, 4, 6], "once": [3], "filter": [5]}


@pytest.mark.parametrize("hook", ["get_batch_started", "get_batch_completed", "iteration_started", "losses_computed"])
def test_stop_iteration_of_a_plugin_ends_no_run_quietly(hook: str):
    told: list[BaseException] = []

    def call(self: Any, run: Any) -> None:
        next(iter(()))

    def call_step(self: Any, step: Any) -> None:
        next(iter(()))

    def tell(self: Any, run: Any, error: BaseException) -> None:
        told.append(error)

    made = call_step if hook == "losses_computed" else call
    made.__name__, tell.__name__ = hook, "exception_raised"
    body = {"__doc__": "x", hook: hookimpl(made), "exception_raised": hookimpl(tell)}
    training = prepare(recipe(), plugins=[plugin(type("Empty", (Plugin,), body))()], write=False)
    with pytest.raises(RuntimeError, match="raised StopIteration") as caught:
        training.fit()
    notes = [*getattr(caught.value, "__notes__", ()), *getattr(caught.value.__cause__, "__notes__", ())]
    assert any("plugin 'empty'" in note and hook in note for note in notes)
    assert len(told) == 1


@pytest.mark.parametrize("plugins", [(), (FEATURES, {"use": "projector"})])
@pytest.mark.parametrize("end", ["done", "failed", "closed"])
def test_a_training_that_has_ended_is_not_trained_again(plugins: tuple[Any, ...], end: str):
    training = prepare(recipe(*plugins), write=False)
    if end == "done":
        training.fit()
    elif end == "closed":
        training.close()
    else:
        training.run.trainer.add_event_handler(Phase.LOSSES_COMPUTED(once=2), lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            training.fit()
    with pytest.raises(StillhouseError, match="has ended, or failed"):
        training.fit()
