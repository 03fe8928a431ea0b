"""Runs with a teacher and an assistant beside it."""

from __future__ import annotations

from typing import Any

from stillhouse import Recipe
from stillhouse import prepare as prepare_run
from support import recipe

STUDENT = {"model": "support:TinyNet", "args": {"width": 4, "dropout": 0.0}}


ASSISTANT = {"model": "support:TinyNet", "args": {"width": 4}, "random": True}


HINT = {"use": "features", "name": "hint", "links": [{"student": "body", "teacher": "assistant:body"}], "weight": 0.5}


SECOND = {"use": "logits", "name": "second", "teacher": "assistant", "temperature": 2.0}


BOTH = ({"use": "logits"}, SECOND, HINT)


def two(*plugins: Any, assistant: dict[str, Any] = ASSISTANT, **changes: Any) -> Recipe:
    """A recipe with a teacher of width 6 and an assistant of width 4."""
    return recipe(*plugins, **{"student": STUDENT, "teachers": {"assistant": assistant}, **changes})


def prepare(*arguments: Any, **options: Any) -> Any:
    return prepare_run(*arguments, write=False, **options)


def trained(width: int, **changes: Any) -> dict[str, Any]:
    """The recipe of one that teaches, as a table."""
    student = {"model": "support:TinyNet", "args": {"width": width}}
    return recipe(run__name=f"net-{width}", run__epochs=1, teacher=None, student=student, **changes).to_dict()
