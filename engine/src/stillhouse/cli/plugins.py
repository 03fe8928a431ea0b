"""``stillhouse plugins``: lists the installed plugins, or describes one.

Without a name and ``--check`` it imports neither torch nor any plugin.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from rich.text import Text

from stillhouse.cli.common import Commands, make_console
from stillhouse.entries import (
    COMMANDS,
    DATA,
    GROUPS,
    MODELS,
    PLUGINS,
    TASKS,
    Group,
    Installed,
    find,
    installed,
    misplaced,
)
from stillhouse.errors import StillhouseError, did_you_mean
from stillhouse.files import to_json
from stillhouse.terminal import make_table

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    plugins = commands.add_parser("plugins", help="list the installed plugins, or describe one")
    plugins.add_argument("name", nargs="?", metavar="NAME", help="say what this plugin does, its options and its hooks")
    plugins.add_argument(
        "--check",
        action="store_true",
        help="import each, and all tasks, models, data sets and commands, and name what is broken",
    )
    plugins.add_argument("--json", action="store_true", help="print it as JSON")
    plugins.set_defaults(function=_plugins)


def _plugins(arguments: argparse.Namespace) -> int:
    if arguments.name is not None:
        from stillhouse.cli.description import describe_plugin, print_description

        description = describe_plugin(arguments.name)
        if arguments.json:
            print(to_json(description))
        else:
            print_description(description, make_console())
        return 0
    rows = [_make_row(found) for found in installed(PLUGINS)]
    if arguments.check:
        rows = _check_rows()
    rows += [{**_make_row(found), "group": group, "status": _find_misplaced(group)} for group, found in misplaced()]
    broken = [row for row in rows if row.get("status", "ok") != "ok"]
    if arguments.json:
        print(to_json(rows))
    else:
        _print_rows([row for row in rows if row["group"] == PLUGINS.name], broken, checked=arguments.check)
    return 1 if broken and arguments.check else 0


def _make_row(found: Installed) -> dict[str, str]:
    return {
        "use": found.use,
        "group": PLUGINS.name,
        "distribution": found.distribution,
        "version": found.version,
        "target": found.target,
        "summary": found.summary,
    }


def _find_misplaced(group: str) -> str:
    return f"unknown group {group!r}; {did_you_mean(group, [g.name for g in GROUPS], 1)}"


def _check_rows() -> list[dict[str, str]]:
    """Return a row for each plugin, and one for each broken member of another group, with its status."""
    from stillhouse.cli.parser import check_command
    from stillhouse.data.catalogue import load_opener
    from stillhouse.models.builder import load_model
    from stillhouse.registry.plugins import load_installed
    from stillhouse.tasks.builder import load_task

    loaders: dict[Group, Callable[[Installed], object]] = {
        PLUGINS: load_installed,
        TASKS: load_task,
        MODELS: load_model,
        DATA: load_opener,
        COMMANDS: check_command,
    }
    rows = []
    for group, load in loaders.items():
        for found in installed(group):
            row = {**_make_row(found), "group": group.name, "status": "ok"}
            try:
                loaded = load(found)
            except StillhouseError as error:
                row["status"] = "; ".join(fault.what for fault in error.faults)
            else:
                row["summary"] = found.summary or (getattr(loaded, "__doc__", None) or "").partition("\n")[0]
            if group is PLUGINS or row["status"] != "ok":
                rows.append(row)
    return rows


def _print_rows(rows: list[dict[str, str]], broken: list[dict[str, str]], *, checked: bool) -> None:
    console = make_console()
    if rows:
        table = make_table("plugin", "distribution", "version", "what it does", *(["status"] if checked else []))
        for row in rows:
            cells = [row["use"], row["distribution"], row["version"], row["summary"]]
            if checked:
                cells.append("broken" if row in broken else "ok")
            table.add_row(*(Text(cell) for cell in cells))
        console.print(table)
    else:
        console.print("no plugins are installed: pip install stillhouse-features stillhouse-projector ...")
    for row in broken:
        console.print(Text(f"{row['distribution']} {row['version']}: {row['status']}"), soft_wrap=True)
    for text in _find_clashes([row["use"] for row in rows]):
        console.print(Text(text), soft_wrap=True)


def _find_clashes(uses: list[str]) -> list[str]:
    """Names that several distributions bring, each with what a recipe writes instead."""
    clashes = []
    for use in dict.fromkeys(use for use in uses if uses.count(use) > 1):
        try:
            find(PLUGINS, use)
        except StillhouseError as error:
            clashes.append(str(error))
    return clashes
