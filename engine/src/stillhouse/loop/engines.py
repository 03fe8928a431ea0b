"""The ignite engines: one that trains, one that measures; and the bridge from their events to hooks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from ignite.engine import Engine, EventEnum, Events
from ignite.metrics import Metric
from torch import Tensor
from torch.optim import Optimizer

from stillhouse import seeds as rng
from stillhouse.contract.batch import Batch
from stillhouse.contract.run import Run
from stillhouse.contract.step import Step
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.fsdp import reshard
from stillhouse.errors import StillhouseError
from stillhouse.loop.composition import Announcer, Composition
from stillhouse.loop.optimizers import clearing
from stillhouse.loop.step import new_step
from stillhouse.loop.stepper import Stepper
from stillhouse.nested import rows_of
from stillhouse.registry.hooks import Call, Hooks, emit

__all__ = ["Phase", "build_evaluator", "build_trainer", "evaluate"]


class _Engine(Engine):
    """ignite's engine, without the log line that it formats for each event, four a step, heard or not.

    An event that nobody has attached to costs a look into a table here. One with handlers is fired as ignite does it.
    """

    def __init__(self, process_function: Callable[[Engine, Any], Any]) -> None:
        super().__init__(process_function)
        self.logger.disabled = True  # it would print errors that are raised and reported anyway

    def _fire_event(self, event_name: Any, *event_args: Any, **event_kwargs: Any) -> None:
        if self._event_handlers.get(event_name):
            super()._fire_event(event_name, *event_args, **event_kwargs)
        else:
            self.last_event_name = event_name


class Phase(EventEnum):
    """The phases inside a step, as events of the trainer: ``trainer.add_event_handler(Phase.BACKWARD_COMPLETED, f)``."""

    FORWARD_COMPLETED = "forward_completed"
    LOSSES_COMPUTED = "losses_computed"
    BACKWARD_COMPLETED = "backward_completed"
    OPTIMIZER_STEPPED = "optimizer_stepped"


_RUN_EVENTS = {
    "started": Events.STARTED,
    "epoch_started": Events.EPOCH_STARTED,
    "get_batch_started": Events.GET_BATCH_STARTED,
    "get_batch_completed": Events.GET_BATCH_COMPLETED,
    "iteration_started": Events.ITERATION_STARTED,
    "epoch_completed": Events.EPOCH_COMPLETED,
    "completed": Events.COMPLETED,
    "dataloader_stop_iteration": Events.DATALOADER_STOP_ITERATION,
    "terminate": Events.TERMINATE,
    "terminate_single_epoch": Events.TERMINATE_SINGLE_EPOCH,
    "interrupt": Events.INTERRUPT,
}


def build_trainer(
    run: Run,
    composition: Composition,
    optimizer: Optimizer,
    hooks: Hooks,
    log_step: Callable[[Run, Step], int],
    stepper: Stepper,
) -> Engine:
    """The engine that trains. Its ``state.step`` is the current :class:`stillhouse.contract.step.Step`, its ``state.output`` the total loss.

    ``log_step`` is called with the run and the step at the end of the first one; it returns the iteration, from 1, at whose
    end it wants to be called next. An ignite handler with a filter would be asked in every step.

    Where the ``stepper`` is plain, a step is what a loop written by hand would do. Otherwise it has a
    :class:`stillhouse.contract.step.Step` for each part of the batch; ``FORWARD_COMPLETED`` and ``LOSSES_COMPUTED`` come with each
    of them, the later phases once.

    Plugins hear each event before the engine's observers, and these before handlers that are attached afterwards; those may
    come early or late. An ended epoch's last step is cleared before anybody hears of the end.
    """
    # Not through nn.Module.__call__, which looks for hooks at the price of a plugin: what wants to hear of this forward
    # pass has two events for it.
    forward_step, clear_gradients = composition.forward, clearing(optimizer)
    plain = stepper.plain
    due = 0

    def begin(step: Step) -> None:
        state: Any = engine.state
        if state.step is not None:
            state.step.clear()
        state.step = step

    def train_step(engine: Engine, batch: Batch) -> Tensor:
        state: Any = engine.state
        if plain:
            if state.step is not None:
                state.step.clear()
            step = new_step(batch, run.device, composition, state.iteration - 1, state.epoch - 1)
            state.step = step
            total = forward_step(step)
            total.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
        else:
            step, total = stepper.gradients(batch, state.iteration - 1, state.epoch - 1, begin)
        if backward.calls or backward.handlers.get(backward.event):
            backward(step)
        if plain:
            optimizer.step()
        else:
            stepper.update()
        with torch.no_grad():
            if stepped.calls or stepped.handlers.get(stepped.event):
                stepped(step)
        clear_gradients()
        nonlocal due
        if state.iteration >= due:
            due = log_step(run, step)
        return total.detach()

    engine = _Engine(train_step)
    engine.register_events(*Phase)
    _state(engine).step = None

    def announcer(phase: Phase) -> Announcer:
        calls = hooks.calls(phase.value, run=run)
        return Announcer(phase.value, calls, engine._event_handlers, lambda: engine.fire_event(phase))

    composition.announce_with(announcer(Phase.FORWARD_COMPLETED), announcer(Phase.LOSSES_COMPUTED))
    backward, stepped = announcer(Phase.BACKWARD_COMPLETED), announcer(Phase.OPTIMIZER_STEPPED)
    # Before the bridge: the epoch's evaluation must not find the last step's features in memory.
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: _let_go(engine))
    _bridge(engine, run, hooks)
    return engine


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
        if calls:
            engine.add_event_handler(event, _run_handler(engine, run, name, calls))
    calls = hooks.calls("iteration_completed", run=run)
    if calls:
        announce = Announcer("iteration_completed", calls, {}, None)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: announce(_state(engine).step))
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
        if error is not self._told:
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


def build_evaluator(run: Run, composition: Composition, hooks: Hooks) -> Engine:
    """The engine that measures the student: in eval mode, without gradient, the plugins not called.

    Raises:
        StillhouseError: two metrics have one name.
    """

    def evaluation_step(_engine: Engine, batch: Batch) -> dict[str, Any]:
        step = new_step(batch, run.device, composition, 0, 0)
        composition.run_student(step)
        output = {"output": step.student.output, "target": step.targets, "input": step.inputs}
        rows = len(step.ids)
        step.clear()
        state = _state(_engine)
        state.rows_left -= rows
        if state.rows_left < 0:  # the last row only fills up this process's share
            output = {key: rows_of(value, 0, rows - 1, rows) for key, value in output.items()}
        return output

    engine = _Engine(evaluation_step)
    metrics: dict[str, Metric] = dict(run.task.metrics(run.data))
    for plugin, function in hooks.calls("metrics"):
        for name, metric in function(run).items():
            if name in metrics:
                raise StillhouseError(
                    f"gives a metric {name!r}, which is there already", where=f"plugin {plugin.name!r}"
                )
            metrics[name] = metric
    for name, metric in metrics.items():
        metric.attach(engine, name)
    return engine


def evaluate(
    run: Run, batches: Any, split: str, then: Callable[[dict[str, float]], None] | None = None
) -> dict[str, float]:
    """Run the evaluator over ``batches``; modes and generators are afterwards as they were.

    The evaluator's handlers find the split's name in ``run.evaluator.state.split``.

    Args:
        run: with its evaluator.
        batches: every sample of the split once.
        split: its name.
        then: called with what this returns, while the student is still in eval mode and there is no gradient.

    Returns:
        The metrics that are single numbers, by name.
    """
    student = run.composition.student
    modes = [(module, module.training) for module in student.modules()]
    student.eval()
    _state(run.evaluator).split = split
    # A share that another process fills up has a row that counts there.
    _state(run.evaluator).rows_left = getattr(batches, "real", sys.maxsize)
    parallel.agree(student)
    try:
        with rng.preserved(), torch.no_grad():
            try:
                state = run.evaluator.run(batches, max_epochs=1)
            except StillhouseError as error:
                raise error.within(f"split {split!r}") from error
            found = _single_numbers(state.metrics)
            if then is not None:
                then(found)
    finally:
        for module, training in modes:
            module.training = training
        reshard(student)
    return found


def _single_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name, value in metrics.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, int | float):
            found[name] = float(value)
    return found
