"""Handlers and metrics of ignite that Python hands over: attached to a run before it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ignite.engine import Engine
from ignite.metrics import Metric

from stillhouse.contract.run import Run
from stillhouse.errors import StillhouseError

__all__ = ["Attachable", "Callback", "attach_callbacks", "attach_metrics"]


class Attachable(Protocol):
    """What ignite's handlers are."""

    def attach(self, engine: Engine) -> Any:
        """Attach itself to the trainer."""


Callback = Attachable | tuple[Any, Callable[..., Any]]
"""A handler with ``attach``, or an event and a function, as ``trainer.add_event_handler`` takes them."""


def attach_callbacks(run: Run, callbacks: Sequence[Callback]) -> None:
    """Attach ``callbacks`` to the run's trainer, in order; they hear an event after the plugins and the engine's observers.

    Raises:
        StillhouseError: what has no ``attach`` and is no pair of an event and a function, an event that the trainer does not
            have, or a function that cannot be called with an engine or nothing.
    """
    for i, callback in enumerate(callbacks):
        attach = getattr(callback, "attach", None)
        if callable(attach):
            attach(run.trainer)
        elif isinstance(callback, tuple) and len(callback) == 2 and callable(callback[1]):
            try:
                run.trainer.add_event_handler(*callback)
            except ValueError as error:  # an event that the trainer has not, or a function that takes other arguments
                raise StillhouseError(str(error), where=f"callbacks[{i}]") from None
        else:
            raise StillhouseError(
                f"must have attach(engine), or be an event and a function, got {type(callback).__name__}",
                where=f"callbacks[{i}]",
                hint="callbacks=[(Events.EPOCH_COMPLETED, function)]",
            )


def attach_metrics(evaluator: Engine, metrics: Mapping[str, Metric], there: Sequence[str]) -> None:
    """Attach ``metrics`` to the evaluator, beside those that are ``there``.

    Raises:
        StillhouseError: something else than ignite's Metric, or a name that is taken.
    """
    for name, metric in metrics.items():
        where = f"metrics[{name!r}]"
        if not isinstance(metric, Metric):
            what = f"must be a Metric of ignite, got {type(metric).__name__}"
            raise StillhouseError(what, where=where, hint="fed with the dict that a task's metrics are fed with")
        if name in there:
            raise StillhouseError("the task has a metric of this name", where=where, hint="choose another name")
        metric.attach(evaluator, name)
