"""``stillhouse plugins``: what is installed; imports neither torch nor, without ``--check``, any plugin."""

from __future__ import annotations

import argparse
import json

from rich.text import Text

from stillhouse.cli.common import Commands, output
from stillhouse.errors import StillhouseError
from stillhouse.tables import plain_table

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    plugins = commands.add_parser("plugins", help="list the installed plugins")
    plugins.add_argument("--check", action="store_true", help="import each and say whether it works")
    plugins.add_argument("--json", action="store_true", help="print them as JSON")
    plugins.set_defaults(function=_plugins)


def _plugins(arguments: argparse.Namespace) -> int:
    from stillhouse.registry.plugins import installed, load

    rows = []
    for found in installed():
        row = {
            "use": found.use,
            "distribution": found.distribution,
            "version": found.version,
            "target": found.target,
            "summary": found.summary,
        }
        if arguments.check:
            try:
                load(found.use)
                row["status"] = "ok"
            except StillhouseError as error:
                row["status"] = "; ".join(fault.what for fault in error.faults)
        rows.append(row)
    broken = [row for row in rows if row.get("status", "ok") != "ok"]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 1 if broken else 0
    console = output()
    if not rows:
        console.print("no plugins are installed: pip install stillhouse-features stillhouse-projector ...")
        return 0
    table = plain_table("plugin", "distribution", "version", "what it does", *(["status"] if arguments.check else []))
    for row in rows:
        cells = [row["use"], row["distribution"], row["version"], row["summary"]]
        if arguments.check:
            cells.append("broken" if row in broken else "ok")
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    for row in broken:
        console.print(Text(f"{row['distribution']} {row['version']}: {row['status']}"), soft_wrap=True)
    return 1 if broken else 0
