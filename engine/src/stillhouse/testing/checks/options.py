"""Checks of the options: said, typed, kept by a recipe, refused where they are wrong."""

from __future__ import annotations

import contextlib
import inspect
import re
import tempfile
import typing
from collections.abc import Iterator
from typing import Any

import attrs

from stillhouse.config.structure import describe_type, structure, unstructure
from stillhouse.contract.plugin import Plugin, option_names
from stillhouse.errors import StillhouseError, first_line
from stillhouse.testing.report import Finding, Note
from stillhouse.testing.subject import Subject
from stillhouse.testing.unsaid import find_unsaid

__all__ = ["check_documentation", "check_recipe_form", "check_types", "check_wrong_options"]

_WRONG: dict[str, tuple[Any, ...]] = {"a number": (-1.0, 0.0, 1e30), "a whole number": (-1, 0), "text": ("no such",)}
"""Values of the right type that an option may or may not take, by the type's name."""


def check_documentation(subject: Subject) -> Iterator[Finding | Note]:
    """Does its docstring say what it does, and what each option is?"""
    yield from map(Note, find_unsaid(subject))
    text = inspect.getdoc(subject.cls) if subject.cls.__doc__ else ""
    if not text:
        yield Finding("the class has no docstring", "say in one sentence what the plugin does: `plugins NAME` shows it")
        return
    for option in option_names(subject.cls):
        if option != "name" and not re.search(rf"^\s*{re.escape(option)}:\s*\S", text, re.MULTILINE):
            yield Finding(
                f"the option {option!r} is not explained in the class's docstring",
                f"add `{option}: what it means, its unit and its bounds` under `Attributes:`",
            )


def check_types(subject: Subject) -> Iterator[Finding]:
    """Has each option a type that a recipe's value can be held against?"""
    hints = typing.get_type_hints(subject.cls)
    for option in option_names(subject.cls):
        kind = hints[option]
        if kind in (Any, object) or (kind in (list, dict, tuple) and not typing.get_args(kind)):
            yield Finding(
                f"the option {option!r} is annotated as {getattr(kind, '__name__', kind)}, which takes anything",
                "write its type: float, Literal['a', 'b'], tuple[str, ...], int | None, an attrs class",
            )


def check_recipe_form(subject: Subject) -> Iterator[Finding]:
    """Are the options the same after a recipe was written and read again?"""
    made = subject.make()
    again: Plugin = structure(unstructure(made), subject.cls)
    for option in option_names(subject.cls):
        if getattr(made, option) != getattr(again, option):
            yield Finding(
                f"the option {option!r} is {getattr(made, option)!r}, and {getattr(again, option)!r} read from a recipe",
                "leave an option as it was given; what follows from it is computed in a hook",
            )


def check_wrong_options(subject: Subject) -> Iterator[Finding]:
    """Is a wrong value refused in words, before anything is trained?"""
    # An option may name a folder, which is then made.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield from _try_options(subject)


def _try_options(subject: Subject) -> Iterator[Finding]:
    hints = typing.get_type_hints(subject.cls)
    fields: Any = attrs.fields(typing.cast("Any", subject.cls))
    for field in fields:
        if field.name == "name":
            continue
        kind = describe_type(hints[field.name])
        for value in (*next((v for k, v in _WRONG.items() if k in kind.split(" or ")), ()), object()):
            yield from _try_value(subject, field.name, value)


def _try_value(subject: Subject, option: str, value: Any) -> Iterator[Finding]:
    shown = repr(value) if isinstance(value, int | float | str) else "of a type that no option has"
    try:
        plugins = subject.listed(**{option: value})
        if not isinstance(value, int | float | str):
            return  # taken: check_types has said why
        training = subject.prepare(plugins)
    except StillhouseError:
        return
    except Exception as error:  # noqa: BLE001 - whatever the plugin raises is the finding
        yield Finding(
            f"{option} = {shown} ends in {type(error).__name__}: {first_line(error)}",
            f"raise StillhouseError(what, where={option!r}, hint=...) in __attrs_post_init__ or build",
        )
        return
    training.close()
