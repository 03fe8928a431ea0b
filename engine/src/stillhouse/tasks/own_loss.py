"""A loss of somebody's own in the place of a task's, whose metrics, score and pictures stay."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor

from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError

__all__ = ["name_loss", "with_loss"]

Loss = Callable[[Any, Any], Tensor]


def with_loss(task: Task, loss: Loss) -> Task:
    """``task`` with another loss: ``loss(output, targets)``, a scalar, the mean over the batch's samples.

    Losses by sample are unknown then, so that plugins that weigh samples are refused.

    Raises:
        StillhouseError: it cannot be called, or has parameters, which nobody would train.
    """
    if not callable(loss):
        raise StillhouseError(f"must be callable, loss(output, targets), got {type(loss).__name__}", where="loss")
    if isinstance(loss, type):
        raise StillhouseError(
            f"must be a function or a module, got the class {loss.__qualname__}",
            where="loss",
            hint=f"{loss.__qualname__}()",
        )
    parameters = getattr(loss, "parameters", None)
    if callable(parameters) and next(iter(parameters()), None) is not None:
        raise StillhouseError(
            "has parameters, which would not be trained", where="loss", hint="a plugin: losses and build"
        )
    kind = type(task)
    # The fields, and so the layout, stay: a copy of the task can be made one of the subclass.
    made = type(kind.__name__, (kind,), {"__slots__": (), "loss": _call(loss), "loss_by_sample": _none, "count": _none})
    changed = copy.copy(task)
    object.__setattr__(changed, "__class__", made)
    return changed


def _call(loss: Loss) -> Callable[..., Tensor]:
    def compute(_task: Task, output: Any, targets: Any) -> Tensor:
        return loss(output.float() if isinstance(output, Tensor) else output, targets)

    return compute


def _none(*_arguments: Any) -> None:
    return None


def name_loss(loss: Any) -> str:
    """What a recipe calls a loss that Python handed over; no import path, since nothing says that it can be imported."""
    return str(getattr(loss, "__qualname__", type(loss).__qualname__)).replace(":", ".")
