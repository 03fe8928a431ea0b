"""The reference of a public name as Markdown: signature, docstring, attributes and methods, read from the source by griffe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import griffe

from support.imports import ROOT

_WIDTH = 100
_STARS = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}
_TITLES = {"parameters": "Arguments", "attributes": "Attributes", "raises": "Raises", "returns": "Returns"}


@cache
def _engine() -> Any:
    return griffe.load("stillhouse", search_paths=[ROOT / "engine" / "src"], docstring_parser="google")


def plain(text: str) -> str:
    """A docstring's text as Markdown on one line."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text.replace("``", "`"))
    return " ".join(text.split())


def reference(name: str) -> str:
    """What the page of ``name``, a module or what one exports, says of it."""
    thing = _engine()[name.removeprefix("stillhouse.")]
    if thing.is_module:
        return "\n\n".join(_module(thing))
    heading, *rest = _entry(thing, thing.name, "##")
    module, _, attribute = name.rpartition(".")
    return "\n\n".join([heading, f"`from {module} import {attribute}`", *rest])


def _module(module: Any) -> Iterator[str]:
    yield f"## `{module.path}`"
    yield from _sections(module)
    for member in _public(module):
        if module.exports is None or member.name in map(str, module.exports):
            yield from _entry(member, member.name, "###")


def _entry(thing: Any, title: str, heading: str) -> Iterator[str]:
    yield f"{heading} `{title}`"
    if thing.is_function:
        yield f"```python\n{_signature(thing)}\n```"
    elif thing.is_attribute:
        yield f"```python\n{thing.name} = {thing.value}\n```"
    yield from _sections(thing)
    if thing.is_class:
        members = list(_public(thing))
        told = {item.name for section in _parsed(thing) if section.kind.value == "attributes" for item in section.value}
        yield from _listed("More attributes", (_attribute(m) for m in members if m.is_attribute and m.name not in told))
        for member in members:
            if member.is_function:
                yield from _entry(member, f"{title}.{member.name}", "###")


def _public(parent: Any) -> Iterator[Any]:
    """The members of ``parent`` that have a name and a docstring of their own, in the order of the source."""
    members = [m for m in parent.members.values() if not m.is_alias and not m.name.startswith("_") and m.docstring]
    yield from sorted(members, key=lambda member: member.lineno)


def _parsed(thing: Any) -> list[Any]:
    return thing.docstring.parsed if thing.docstring else []


def _sections(thing: Any) -> Iterator[str]:
    for section in _parsed(thing):
        kind = section.kind.value
        if kind in _TITLES:
            yield from _listed(_TITLES[kind], map(_item, section.value))
        else:
            yield from map(_paragraph, str(section.value).split("\n\n"))


def _paragraph(text: str) -> str:
    return text if text.lstrip().startswith(("- ", "|", "```")) else plain(text)


def _listed(title: str, items: Iterable[str]) -> Iterator[str]:
    lines = list(items)
    if lines:
        yield f"**{title}**"
        yield "\n".join(lines)


def _item(item: Any) -> str:
    name, kind = getattr(item, "name", ""), getattr(item, "annotation", None)
    about = f"`{name}` (`{kind}`)" if name and kind else f"`{name or kind}`" if name or kind else ""
    return f"- {about}: {plain(item.description)}" if about else f"- {plain(item.description)}"


def _attribute(member: Any) -> str:
    about = f"`{member.name}`" + (f" (`{member.annotation}`)" if member.annotation else "")
    return f"- {about}: {plain(member.docstring.value)}"


def _signature(function: Any) -> str:
    parts: list[str] = []
    starred = False
    for parameter in function.parameters:
        if parameter.name in ("self", "cls") and function.parent.is_class:
            continue
        keyword = parameter.kind is griffe.ParameterKind.keyword_only
        if keyword and not starred:
            parts.append("*")
        starred = starred or keyword or parameter.kind is griffe.ParameterKind.var_positional
        text = _STARS.get(parameter.kind, "") + parameter.name
        if parameter.annotation is not None:
            text += f": {parameter.annotation}"
        if parameter.default is not None and parameter.kind not in _STARS:
            text += f" = {parameter.default}" if parameter.annotation is not None else f"={parameter.default}"
        parts.append(text)
    end = f" -> {function.returns}: ..." if function.returns is not None else ": ..."
    parts = [part.replace("'", '"') for part in parts]  # as the house writes text
    end = end.replace("'", '"')
    line = f"def {function.name}({', '.join(parts)}){end}"
    if len(line) <= _WIDTH:
        return line
    return f"def {function.name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){end}"
