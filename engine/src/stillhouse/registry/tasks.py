"""A recipe's task, by name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from stillhouse.config.references import import_object
from stillhouse.config.structure import structure
from stillhouse.config.task import TaskSpec
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError, did_you_mean

__all__ = ["TASKS", "build_task"]


TASKS = {
    "classification": "stillhouse.tasks.classification:Classification",
    "detection": "stillhouse.tasks.detection:Detection",
    "colourisation": "stillhouse.tasks.images:Colourisation",
    "denoising": "stillhouse.tasks.images:Denoising",
    "depth": "stillhouse.tasks.depth:Depth",
    "image-to-image": "stillhouse.tasks.images:ImageToImage",
    "multi-label": "stillhouse.tasks.multilabel:MultiLabel",
    "regression": "stillhouse.tasks.regression:Regression",
    "segmentation": "stillhouse.tasks.segmentation:Segmentation",
    "self-supervised": "stillhouse.tasks.self_supervision:SelfSupervised",
    "super-resolution": "stillhouse.tasks.images:SuperResolution",
}
"""The engine's tasks by name; imported when a recipe names them."""


def build_task(spec: TaskSpec, base: Path | None = None) -> Task:
    """The task that ``spec`` names.

    Raises:
        StillhouseError: no such task, or options that do not fit it.
    """
    kind: Any
    if ":" in spec.name:
        kind = import_object(spec.name, "task.name", base)
        if not (isinstance(kind, type) and issubclass(kind, Task)):
            raise StillhouseError(f"{spec.name!r} is no subclass of stillhouse.tasks.Task", where="task.name")
    elif spec.name in TASKS:
        module, _, name = TASKS[spec.name].partition(":")
        kind = getattr(import_module(module), name)
    else:
        raise StillhouseError(f"unknown task {spec.name!r}", where="task.name", hint=did_you_mean(spec.name, TASKS))
    task: Task = structure(spec.args, kind, "task.args")
    return task
