"""A recipe's task, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stillhouse.config.references import import_object
from stillhouse.config.structure import structure
from stillhouse.config.task import TaskSpec
from stillhouse.contract.task import Task
from stillhouse.entries import TASKS, Installed, find, find_named, load_entry
from stillhouse.errors import StillhouseError
from stillhouse.tasks.own_loss import with_loss

__all__ = ["build_task", "load_task"]


def build_task(spec: TaskSpec, base: Path | None = None, *, trained: bool = False) -> Task:
    """Build the task of ``spec``: an installed one's name, or ``package.module:Class``.

    Args:
        spec: the recipe's.
        base: the recipe's folder.
        trained: with the loss that the recipe names, which nobody else needs.

    Raises:
        StillhouseError: no such task or loss, a broken one, or options that do not fit it.
    """
    where = "task.name"
    if ":" not in spec.name or find_named(TASKS, spec.name) is not None:
        kind = load_task(find(TASKS, spec.name, where), where)
    else:
        kind = _check(import_object(spec.name, where, base, TASKS), spec.name, where)
    task: Task = structure(spec.args, kind, "task.args")
    if not trained or spec.loss is None:
        return task
    if ":" not in spec.loss:
        what = f"this run was given its loss, {spec.loss}, from Python"
        raise StillhouseError(what, where="task.loss", hint='train(recipe, loss=...), or "package.module:function"')
    try:
        return with_loss(task, import_object(spec.loss, "task.loss", base))
    except StillhouseError as error:
        raise error.within("task") if error.faults[0].where == "loss" else error from None


def load_task(found: Installed, where: str = "") -> type[Task]:
    """Import a task that a distribution brings.

    Raises:
        StillhouseError: it is broken.
    """
    return _check(load_entry(found, TASKS, where), found.target, where)


def _check(kind: Any, path: str, where: str) -> type[Task]:
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise StillhouseError(f"{path!r} must be a subclass of stillhouse.tasks.Task", where=where)
    return kind
