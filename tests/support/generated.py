"""The generated parts of the pages: between ``<!-- generated: KIND ARGUMENTS -->`` and ``<!-- end -->``, read from the code."""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable
from typing import Any

import attrs

from stillhouse.cli.parser import make_parser
from stillhouse.config.learning_rate import LearningRateSchedule
from stillhouse.config.run import CheckpointSpec, DistributedSpec, OptimizerSpec, RunSpec
from stillhouse.config.run_options import CompileArgs, EarlyStoppingSpec, EmaSpec, SpeedSpec, WatchSpec
from stillhouse.config.structure import describe_type, unstructure
from stillhouse.config.teacher import TeacherSpec
from stillhouse.contract.hookspecs import SPECIFICATIONS, hook_arguments
from stillhouse.data import DataSpec
from stillhouse.entries import TASKS, installed
from stillhouse.models import ModelSpec
from stillhouse.registry.plugins import load
from stillhouse.schedule import Schedule
from stillhouse.tasks import Classification, TaskSpec
from stillhouse.tasks.builder import load_task
from support.imports import docstring_of, is_public, modules
from support.reference import plain, reference

SPECS = {
    kind.__name__: kind
    for kind in (
        RunSpec,
        DataSpec,
        ModelSpec,
        TaskSpec,
        Classification,
        TeacherSpec,
        OptimizerSpec,
        Schedule,
        LearningRateSchedule,
        CheckpointSpec,
        DistributedSpec,
        SpeedSpec,
        CompileArgs,
        EmaSpec,
        EarlyStoppingSpec,
        WatchSpec,
    )
}
"""The classes of a recipe's tables, by name."""
TASK_KINDS = {task.use: load_task(task) for task in installed(TASKS)}
"""The tasks that are installed, by the name that a recipe gives them."""

_BLOCK = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def keys(kind: type) -> list[attrs.Attribute[Any]]:
    """A spec's keys; those of the spec that a schedule is built on have a table of their own."""
    return [field for field in attrs.fields(kind) if kind is not LearningRateSchedule or not field.inherited]


def attribute_texts(kind: type) -> dict[str, str]:
    """The section Attributes of a class's docstring."""
    lines = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2].splitlines()
    found: dict[str, str] = {}
    name = ""
    for line in lines:
        if line and not line.startswith(" "):
            break
        entry = re.match(r" {4}(\w+): (.*)", line)
        if entry:
            name = entry[1]
            found[name] = entry[2]
        elif name:
            found[name] += " " + line.strip()
    return {key: plain(text) for key, text in found.items()}


def keys_table(kind: type) -> str:
    """A spec's keys: type, default, meaning."""
    hints, texts = typing.get_type_hints(kind), attribute_texts(kind)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in keys(kind):
        cells = (f"`{field.alias}`", describe_type(hints[field.name]), default_text(field), texts[field.name])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def default_text(field: attrs.Attribute[Any]) -> str:
    """A key's default as TOML has it."""
    value = field.default
    if value is attrs.NOTHING:
        return "required"
    if isinstance(value, attrs.Factory):
        value = value.factory()
    if value is None:
        return "none"
    return f"`{json.dumps(unstructure(value))}`"


def options_table(distribution: str) -> str:
    """The options of every plugin that a distribution brings, but for the name: default and meaning."""
    rows = ["| method | option | default | meaning |", "|---|---|---|---|"]
    for found in installed():
        if found.distribution == distribution:
            kind, _ = load(found.use)
            texts = {name: text.replace("|", "\\|") for name, text in attribute_texts(kind).items()}
            fields = [field for field in attrs.fields(kind) if field.name != "name"]
            rows += [f"| `{found.use}` | `{f.name}` | {default_text(f)} | {texts[f.name]} |" for f in fields]
    return "\n".join(rows)


def hooks_list(group: type) -> str:
    """A group's hooks, each with its arguments and its contract."""
    parts = []
    for name, function in vars(group).items():
        if name in hook_arguments():
            call = f"{name}({', '.join(hook_arguments()[name])})"
            parts.append(f"### `{call}`\n\n{plain(inspect.getdoc(function) or '')}")
    return "\n\n".join(parts)


def help_text(*command: str) -> str:
    """What ``--help`` prints at 80 columns."""
    parser = make_parser()
    for word in command:
        choices = next(a.choices for a in parser._actions if isinstance(a.choices, dict))
        parser = choices[word]
    return "```text\n" + parser.format_help().rstrip() + "\n```"


def modules_table() -> str:
    """The public modules, each with the first line of its docstring."""
    public = sorted(name for name in modules() if name.partition(".")[0] == "stillhouse" and is_public(name))
    lines = ((name, plain(docstring_of(name).splitlines()[0]).replace("|", "\\|")) for name in public)
    return "\n".join(["| module | what it is |", "|---|---|", *(f"| `{name}` | {line} |" for name, line in lines)])


GENERATORS: dict[str, Callable[..., str]] = {
    "modules": modules_table,
    "reference": reference,
    "keys": lambda name: keys_table({**SPECS, **{kind.__name__: kind for kind in TASK_KINDS.values()}}[name]),
    "hooks": lambda name: hooks_list(next(g for g in SPECIFICATIONS if g.__name__ == name)),
    "help": help_text,
    "options": options_table,
}


def regenerated(text: str) -> str:
    """A page with its generated parts as they should be."""

    def fill(match: re.Match[str]) -> str:
        kind, *arguments = match[2].split()
        return f"{match[1]}\n{GENERATORS[kind](*arguments)}\n\n{match[3]}"

    return _BLOCK.sub(fill, text)
