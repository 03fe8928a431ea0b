"""``stillhouse teacher``: says what a file of weights is, and which lines of a recipe load it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from stillhouse.cli.common import Commands, add_trust, make_console
from stillhouse.config.overrides import apply_override
from stillhouse.files import to_json
from stillhouse.terminal import make_table

if TYPE_CHECKING:
    from stillhouse.teachers.file_report import FileReport

__all__ = ["add"]

_KEYS = 4
"""Keys that are shown from either end."""


def add(commands: Commands) -> None:
    """Add the command."""
    teacher = commands.add_parser("teacher", help="say what a file of weights is, and how a recipe loads it")
    teacher.add_argument(
        "file", metavar="FILE", help="weights (.pt, .pth, .safetensors), a checkpoint or a run's folder"
    )
    teacher.add_argument("--model", metavar="MODEL", help="load it into this model: torchvision:resnet18")
    teacher.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help='a key of [teacher]: --set args.num_classes=100 --set normalize="imagenet" --set averaged=false',
    )
    teacher.add_argument("--recipe", metavar="RECIPE", help="measure it on this recipe's validation split")
    add_trust(teacher)
    teacher.add_argument("--json", action="store_true", help="print it as JSON")
    teacher.set_defaults(function=_describe)


def _describe(arguments: argparse.Namespace) -> int:
    from stillhouse.teachers.file_report import describe_file
    from stillhouse.training.selection import load_recipe

    table: dict[str, Any] = {} if arguments.model is None else {"model": arguments.model}
    for override in arguments.overrides:
        apply_override(table, override)
    recipe = None if arguments.recipe is None else load_recipe(arguments.recipe)
    report = describe_file(Path(arguments.file), table, recipe)
    if arguments.json:
        import attrs

        print(to_json(attrs.asdict(report)))
    else:
        _show(report)
    return 0


def _show(report: FileReport) -> None:
    console = make_console()
    table = make_table("state dict", "tensors", "numbers")
    for place, (tensors, numbers) in report.tables.items():
        table.add_row(Text(place or "the file"), f"{tensors:,}", f"{numbers:,}")
    console.print(table)
    keys = report.keys
    shown = keys if len(keys) <= 2 * _KEYS else (*keys[:_KEYS], "...", *keys[-_KEYS:])
    facts = {
        "prefix": repr(report.prefix) if report.prefix else "none",
        "precision": ", ".join(report.precisions),
        "keys": ", ".join(shown),
        "classes": "its last layer does not show them" if report.classes is None else f"{report.classes:,}",
    }
    for name, value in facts.items():
        console.print(Text(f"{name:<10} {value}"), soft_wrap=True)
    for note in report.notes:
        console.print(Text(f"loading    {note}"), soft_wrap=True)
    for name, number in (report.metrics or {}).items():
        console.print(Text(f"val/{name:<6} {number:.4f}"), soft_wrap=True)
    console.print(Text(f"\nIn a recipe:\n\n{report.lines}"), soft_wrap=True)
