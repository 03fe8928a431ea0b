"""Stillhouse: knowledge distillation whose method is a list of plugins.

Importing this package is light: torch is imported when something that needs it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stillhouse.errors import Fault, StillhouseError, StillhouseWarning
from stillhouse.plugin import Plugin, hookimpl, plugin
from stillhouse.schedule import Schedule, Weight

if TYPE_CHECKING:
    from stillhouse.evaluating import evaluate
    from stillhouse.exporting import export
    from stillhouse.loading import load_student
    from stillhouse.recipe import Recipe
    from stillhouse.run import Run
    from stillhouse.step import Link, LinkSpec, Step, Tap
    from stillhouse.training import Result, prepare, train

__version__ = "0.1.0"

_LAZY = {
    "Link": "step",
    "LinkSpec": "step",
    "Recipe": "recipe",
    "Result": "training",
    "Run": "run",
    "Step": "step",
    "Tap": "step",
    "evaluate": "evaluating",
    "export": "exporting",
    "load_student": "loading",
    "prepare": "training",
    "train": "training",
}

__all__ = [
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
    "Weight",
    "evaluate",
    "export",
    "hookimpl",
    "load_student",
    "plugin",
    "prepare",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"stillhouse.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'stillhouse' has no attribute {name!r}")
