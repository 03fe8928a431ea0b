"""Stillhouse: knowledge distillation whose method is a list of plugins.

Importing this package is light: torch is imported when something that needs it is first used.
Its floors and what each may import: ``docs/design.md``. The last line of a package's docstring names what is public in it.
Public: this package, entries, errors, files, layout, memo, nested, outputs, schedule, seeds, tables.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stillhouse.contract.plugin import Plugin, hookimpl, plugin
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning
from stillhouse.schedule import Schedule, Weight
from stillhouse.version import __version__

if TYPE_CHECKING:
    from stillhouse.config.recipe import Recipe
    from stillhouse.config.teacher import TeacherSpec
    from stillhouse.contract.assembly import Assembly
    from stillhouse.contract.run import Run
    from stillhouse.contract.step import Link, LinkSpec, Step, Tap
    from stillhouse.students.evaluation import evaluate
    from stillhouse.students.export import export
    from stillhouse.students.loader import load_student
    from stillhouse.training.preparation import Result, prepare, train
    from stillhouse.training.selection import load_recipe


_LAZY = {
    "Assembly": "contract.assembly",
    "Link": "contract.step",
    "LinkSpec": "contract.step",
    "Recipe": "config.recipe",
    "Result": "training.preparation",
    "Run": "contract.run",
    "Step": "contract.step",
    "Tap": "contract.step",
    "TeacherSpec": "config.teacher",
    "evaluate": "students.evaluation",
    "export": "students.export",
    "load_recipe": "training.selection",
    "load_student": "students.loader",
    "prepare": "training.preparation",
    "train": "training.preparation",
}

__all__ = [
    "Assembly",
    "Fault",
    "Link",
    "LinkSpec",
    "Plugin",
    "Recipe",
    "Result",
    "Run",
    "Schedule",
    "Step",
    "StillhouseError",
    "StillhouseWarning",
    "Tap",
    "TeacherSpec",
    "Weight",
    "__version__",
    "evaluate",
    "export",
    "hookimpl",
    "load_recipe",
    "load_student",
    "plugin",
    "prepare",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"stillhouse.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'stillhouse' has no attribute {name!r}")
