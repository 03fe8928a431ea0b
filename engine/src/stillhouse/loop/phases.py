"""The phases inside a step: their events, and how plugins and ignite's handlers hear of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, EventEnum

from stillhouse.contract.protocols import Named
from stillhouse.contract.step import Step
from stillhouse.errors import StillhouseError
from stillhouse.registry.hooks import Call, emit

__all__ = ["AFTER_BATCH", "Emitter", "Phase", "leaving_batch", "note_place", "place_of"]

AFTER_BATCH = ("get_batch_completed", "iteration_started")
"""The hooks between a batch's arrival and its step."""


class Phase(EventEnum):
    """The phases inside a step, as events of the trainer: ``trainer.add_event_handler(Phase.BACKWARD_COMPLETED, f)``."""

    FORWARD_COMPLETED = "forward_completed"
    LOSSES_COMPUTED = "losses_computed"
    BACKWARD_COMPLETED = "backward_completed"
    OPTIMIZER_STEPPED = "optimizer_stepped"


class Emitter:
    """Calls the hooks of a phase, then fires its event if somebody has attached to it.

    Args:
        hook: the phase's name, as the hook has it.
        calls: the implementations of plugins and observers, which take the step.
        handlers: ignite's table of handlers; it has no public way to ask whether an event has any.
        fire: fires the event.
    """

    __slots__ = ("_fire", "_hook", "calls", "event", "handlers")

    def __init__(
        self,
        hook: str = "",
        calls: Sequence[Call] = (),
        handlers: Mapping[Any, Any] | None = None,
        fire: Callable[[], None] = lambda: None,
    ) -> None:
        # An event equals its name, and looking a name up that is not there calls no Python code.
        self._hook, self.calls, self._fire, self.event = hook, calls, fire, hook.upper()
        self.handlers = {} if handlers is None else handlers

    def emit(self, step: Step) -> None:
        """Announce the phase; a plugin's error leaves with a note that names plugin, hook and step."""
        if self.calls:
            emit(self.calls, self._hook, lambda: place_of(step), step)
        if self.handlers.get(self.event):
            self._fire()

    def emit_without_gradient(self, step: Step) -> None:
        """Announce the phase, to hooks and handlers that write into tensors."""
        with torch.no_grad():
            self.emit(step)


def note_place(error: Exception, plugin: Named, hook: str, step: Step) -> None:
    """Have ``error`` say where it came from: plugin, hook and step."""
    error.add_note(f"in plugin {plugin.name!r}, hook {hook!r}, {place_of(step)}")


def place_of(step: Step) -> str:
    """Where in the run ``step`` is, for a message."""
    return f"epoch {step.epoch + 1}, step {step.iteration + 1}"


def leaving_batch(engine: Engine, plugin: Named, hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, refused where it puts another batch into the trainer's state."""

    def call(*arguments: Any) -> None:
        state: Any = engine.state
        batch = state.batch
        function(*arguments)
        if state.batch is not batch:
            raise StillhouseError(
                f"{hook} replaces run.trainer.state.batch",
                where=f"plugin {plugin.name!r}",
                hint="prepare_batch(step) is the hook that owns the batch",
            )

    return call
