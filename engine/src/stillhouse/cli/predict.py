"""``stillhouse predict``: predicts images by a run's student."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from rich.text import Text

from stillhouse.cli.common import Commands, add_device, add_run, importing, make_console
from stillhouse.files import to_json
from stillhouse.terminal import make_table

if TYPE_CHECKING:
    from stillhouse.students.prediction import Predicted

__all__ = ["add"]

_SHOWN = 5
"""Entries of a list that a table's cell shows."""


def add(commands: Commands) -> None:
    """Add the command."""
    predict = commands.add_parser("predict", help="have a run's student look at images")
    add_run(predict)
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    predict.add_argument("--out", metavar="DIR", default="predictions", help="where pictures go (default: predictions)")
    predict.add_argument("--no-pictures", action="store_true", help="draw none")
    predict.add_argument(
        "--size",
        type=_parse_size,
        metavar="HxW",
        help="resize to 240x320, or own: leave each image its size (default: the recipe's size, if it has one)",
    )
    predict.add_argument("--force", action="store_true", help="write over pictures that exist")
    add_device(predict)
    predict.add_argument("--json", action="store_true", help="print it as JSON, with all that the task says")
    predict.set_defaults(function=_predict)


def _parse_size(text: str) -> tuple[int, int] | str:
    if text == "own":
        return text
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not found or not int(found[1]) or not int(found[2] or 1):
        raise argparse.ArgumentTypeError(f"must be a size such as 240x320, 224 or own, got {text!r}")
    return int(found[1]), int(found[2] or found[1])


def _predict(arguments: argparse.Namespace) -> int:
    import attrs

    with importing():
        from stillhouse.students.prediction import predict

    found = predict(
        arguments.run,
        arguments.images,
        out=None if arguments.no_pictures else arguments.out,
        size=None if arguments.size == "own" else arguments.size,
        own_size=arguments.size == "own",
        weights=arguments.weights,
        averaged=arguments.averaged,
        trust=arguments.trust,
        device=arguments.device,
        force=arguments.force,
    )
    if arguments.json:
        print(to_json([attrs.asdict(each) for each in found]))
    else:
        _show(found)
    return 0


def _show(found: list[Predicted]) -> None:
    keys = list(dict.fromkeys(key for each in found for key in each.prediction))
    pictures = any(each.picture for each in found)
    table = make_table("image", "size", *keys, *(["picture"] if pictures else []))
    for each in found:
        cells = [_format_value(each.prediction.get(key, "")) for key in keys]
        height, width = each.size
        shown = [each.image, f"{height}x{width}", *cells, *([each.picture or ""] if pictures else [])]
        table.add_row(*(Text(cell, overflow="fold") for cell in shown))
    make_console().print(table)


def _format_value(value: Any) -> str:
    """Format plain data for a table's cell: ``cat 0.93, dog 0.05``."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        if all(not isinstance(v, dict | list) for v in value.values()) and len(value) == 2:
            return " ".join(_format_value(v) for v in value.values())
        return ", ".join(f"{k} {_format_value(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        more = ", ..." if len(value) > _SHOWN else ""
        return ", ".join(_format_value(v) for v in value[:_SHOWN]) + more or "none"
    return str(value)
