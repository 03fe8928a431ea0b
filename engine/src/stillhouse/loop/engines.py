"""The ignite engine that trains, and the bridge from its events to hooks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import Tensor
from torch.optim import Optimizer

from stillhouse.contract.assembly import Assembly
from stillhouse.contract.batch import Batch
from stillhouse.contract.run import Run
from stillhouse.contract.step import Step
from stillhouse.distributed import processes as parallel
from stillhouse.loop.composition import Composition
from stillhouse.loop.gradients import make_zero_grad
from stillhouse.loop.phases import AFTER_BATCH, Emitter, Phase, leaving_batch
from stillhouse.loop.stepper import Stepper
from stillhouse.registry.hooks import Call, Hooks, emit

__all__ = ["LeanEngine", "build_run"]


class LeanEngine(Engine):
    """ignite's engine, without the log line that it formats for each event, four a step, heard or not.

    An event that nobody hears costs a look into a table here, by its name, which is hashed without Python code.
    """

    def __init__(self, process_function: Callable[[Engine, Any], Any]) -> None:
        super().__init__(process_function)
        self.logger.disabled = True  # it would print errors that are raised and reported anyway

    def _fire_event(self, event_name: Any, *event_args: Any, **event_kwargs: Any) -> None:
        key = event_name if isinstance(event_name, str) else getattr(event_name, "_name_", event_name)
        if self._event_handlers.get(key):
            try:
                super()._fire_event(event_name, *event_args, **event_kwargs)
            except StopIteration as error:  # ignite would take it for the end of the data
                raise RuntimeError(f"a handler of {key} raised StopIteration") from error
        else:
            self.last_event_name = event_name

    def remove_event_handler(self, handler: Callable[..., Any], event_name: Any) -> None:
        """As ignite does; an event that nobody hears any more leaves the table, so that a look there finds nothing."""
        super().remove_event_handler(handler, event_name)
        if not self._event_handlers[event_name]:
            del self._event_handlers[event_name]


_RUN_EVENTS = {
    name: Events[name.upper()]
    for name in (
        *("started", "epoch_started", "get_batch_started", "get_batch_completed", "iteration_started"),
        *("epoch_completed", "completed", "dataloader_stop_iteration"),
        *("terminate", "terminate_single_epoch", "interrupt"),
    )
}


def build_run(
    assembly: Assembly,
    composition: Composition,
    optimizer: Optimizer,
    hooks: Hooks,
    log_step: Callable[[Run, Step], int],
    stepper: Stepper,
    folder: Path | None,
    evaluator: Engine,
) -> Run:
    """The run: the engine that trains with the plugins' hooks attached to its events, and the ``evaluator``.

    The trainer's ``state.step`` is the current :class:`stillhouse.contract.step.Step`, its ``state.output`` the total loss.

    ``log_step`` is called with the run and the step at the end of the first one; it returns the iteration, from 1, at whose
    end it wants to be called next. An ignite handler with a filter would be asked in every step.

    A batch that goes through in parts has a step for each of them; ``FORWARD_COMPLETED`` and ``LOSSES_COMPUTED`` come with
    each, the later phases once.

    Plugins hear each event before the engine's observers, and these before handlers that are attached afterwards; those may
    come early or late. An ended epoch's last step is cleared before anybody hears of the end.
    """
    clear_gradients = make_zero_grad(optimizer)
    due = 0

    def train_step(engine: Engine, batch: Batch) -> Tensor:
        state: Any = engine.state
        if state.step is not None:
            state.step.clear()
        step, total = stepper.gradients(batch, state.iteration - 1, state.epoch - 1, state)
        if backward.calls or backward.event in backward.handlers:  # a look costs less than a call
            backward.emit_without_gradient(step)
        stepper.update()
        if stepped.calls or stepped.event in stepped.handlers:
            stepped.emit_without_gradient(step)
        clear_gradients()
        nonlocal due
        if state.iteration >= due:
            due = log_step(run, step)
        return total.detach()

    engine = LeanEngine(train_step)
    engine.register_events(
        *Phase, event_to_attr=dict.fromkeys(Phase, "iteration")
    )  # which filters such as every=2 count
    _state(engine).step = None
    run = Run(
        **assembly.facts(),
        composition=composition,
        optimizer=optimizer,
        trainer=engine,
        evaluator=evaluator,
        folder=folder,
        writes=folder is not None and parallel.is_first(),
    )

    def emitter(phase: Phase) -> Emitter:
        calls = hooks.calls(phase.value, run=run)
        return Emitter(phase.value, calls, engine._event_handlers, lambda: engine.fire_event(phase))

    composition.announce_with(emitter(Phase.FORWARD_COMPLETED), emitter(Phase.LOSSES_COMPUTED))
    backward, stepped = emitter(Phase.BACKWARD_COMPLETED), emitter(Phase.OPTIMIZER_STEPPED)
    # Before the bridge: the epoch's evaluation must not find the last step's features in memory.
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: _let_go(engine))
    engine.add_event_handler(
        Events.EPOCH_COMPLETED(once=1), lambda: composition.terms.warn_of_silent(run.steps_per_epoch)
    )
    _bridge(engine, run, hooks)
    return run


def _let_go(engine: Engine) -> None:
    step = _state(engine).step
    if step is not None:
        step.clear()


def _state(engine: Engine) -> Any:
    """The engine's state, to which the trainer adds ``step``."""
    return engine.state


def _bridge(engine: Engine, run: Run, hooks: Hooks) -> None:
    """Attach the hooks to ignite's events.

    ignite hands the engine to a handler's first argument, even to one with a default: these closures use nothing of
    what they are given (an ended epoch's event brings its step count), and a hook gets the run.
    """
    for name, event in _RUN_EVENTS.items():
        calls = hooks.calls(name)
        if name in AFTER_BATCH:
            calls = [(plugin, leaving_batch(engine, plugin, name, function)) for plugin, function in calls]
        if calls:
            engine.add_event_handler(event, _run_handler(engine, run, name, calls))
    calls = hooks.calls("iteration_completed", run=run)
    if calls:
        completed = Emitter("iteration_completed", calls)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: completed.emit(_state(engine).step))
    _Failure(engine, run, hooks.calls("exception_raised")).attach()


def _run_handler(engine: Engine, run: Run, name: str, calls: list[Call]) -> Callable[..., None]:
    def handler(*_from_ignite: Any, **_more: Any) -> None:
        emit(calls, name, lambda: f"epoch {engine.state.epoch}", run)

    return handler


class _Failure:
    """Tells plugins and observers of an exception once, and raises it again whatever anybody's handler does.

    An EXCEPTION_RAISED handler that does not re-raise makes ignite go on with the next epoch. This one raises, after
    every other handler has been called: when it finds itself first it moves to the end of the list that ignite is
    walking. ignite reports an exception twice on its way up, once from the epoch and once from the run.
    """

    def __init__(self, engine: Engine, run: Run, calls: list[Call]) -> None:
        self._engine, self._run, self._calls = engine, run, calls
        self._told: BaseException | None = None
        self._last = False

    def attach(self) -> None:
        self._engine.add_event_handler(Events.EXCEPTION_RAISED, self._handle)

    def _handle(self, _engine: Engine, error: BaseException) -> None:
        # A StopIteration comes a second time as the RuntimeError that a generator makes of it.
        if self._told is None or self._told not in (error, error.__cause__):
            self._told = error
            for owner, function in self._calls:
                try:
                    function(self._run, error)
                except Exception as second:  # noqa: BLE001 - the first error is the one to report
                    error.add_note(f"{owner.name!r} failed in exception_raised as well: {second!r}")
            if not self._last:
                self._last = True
                self._engine.add_event_handler(Events.EXCEPTION_RAISED, self._handle)
                return
        raise error
