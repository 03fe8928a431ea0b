"""The description of one plugin that ``stillhouse plugins NAME`` prints."""

from __future__ import annotations

import inspect
import itertools
import typing
from typing import Any

import attrs
from rich.console import Console
from rich.text import Text

from stillhouse.config.structure import describe_type, unstructure
from stillhouse.contract.hookspecs import hook_arguments
from stillhouse.registry.plugins import load
from stillhouse.terminal import make_table

__all__ = ["describe_plugin", "print_description"]

_RELATIONS = ("requires", "provides", "before", "after", "conflicts", "changes", "engine", "shorthand")


def describe_plugin(use: str) -> dict[str, Any]:
    """Describe a plugin, as plain data.

    Args:
        use: its name, ``DISTRIBUTION:NAME`` or ``package.module:Class``.

    Raises:
        StillhouseError: no such plugin, or a broken one.
    """
    cls, found = load(use)
    hints = typing.get_type_hints(cls)
    fields: Any = attrs.fields(typing.cast("Any", cls))
    options = [
        {"name": field.name, "type": describe_type(hints[field.name]), **_get_default(field)}
        for field in sorted(fields, key=lambda field: field.name == "name")
    ]
    return {
        "use": found.use,
        "target": found.target,
        "distribution": found.distribution,
        "version": found.version,
        "summary": found.summary,
        "description": inspect.getdoc(cls) or "",
        "options": options,
        **{name: getattr(cls, name) for name in _RELATIONS},
        "shorthand": cls.shorthand if any(option["name"] == cls.shorthand for option in options) else "",
        "hooks": [name for name in hook_arguments() if hasattr(getattr(cls, name, None), "stillhouse_impl")],
        "readme": _cut_readme(found.readme),
    }


def _get_default(field: attrs.Attribute[Any]) -> dict[str, Any]:
    """Return the key ``default`` of an option that has one."""
    default: Any = field.default
    if default is attrs.NOTHING:
        return {}
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class, which attrs' stubs call a function
        default = None if default.takes_self else default.factory()
    return {"default": unstructure(default)}


def _cut_readme(readme: str) -> str:
    """Cut the README at its second heading or its first block of code."""

    def ends(line: str) -> bool:
        return line.startswith(("#", "```", "    ", "\t"))

    title, *rest = readme.splitlines() or [""]
    return "\n".join([title, *itertools.takewhile(lambda line: not ends(line), rest)]).strip()


def print_description(description: dict[str, Any], console: Console) -> None:
    """Print a description of :func:`describe_plugin`."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    origin = f"{description['distribution']} {description['version']}".strip()
    say(f"{description['use']}  {origin}  {description['target']}", "bold")
    say("")
    say(description["description"])
    say("")
    table = make_table("option", "type", "default")
    for option in description["options"]:
        table.add_row(*(Text(cell) for cell in (option["name"], option["type"], _format_value(option))))
    console.print(table)
    for name in _RELATIONS:
        value = description[name]
        if value:
            say(f"{name:<10} {value if isinstance(value, str) else ', '.join(value)}")
    say(f"{'hooks':<10} {', '.join(description['hooks'])}")
    if description["readme"]:
        say("")
        say(description["readme"])


def _format_value(option: dict[str, Any]) -> str:
    return repr(option["default"]) if "default" in option else "must be given"
