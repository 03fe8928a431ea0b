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

__all__ = ["build_task", "load_task"]


def build_task(spec: TaskSpec, base: Path | None = None) -> Task:
    """Build the task of ``spec``: an installed one's name, or ``package.module:Class``.

    Raises:
        StillhouseError: no such task, a broken one, or options that do not fit it.
    """
    where = "task.name"
    if ":" not in spec.name or find_named(TASKS, spec.name) is not None:
        kind = load_task(find(TASKS, spec.name, where), where)
    else:
        kind = _check(import_object(spec.name, where, base, TASKS), spec.name, where)
    task: Task = structure(spec.args, kind, "task.args")
    return task


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
