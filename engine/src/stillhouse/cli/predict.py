"""``stillhouse predict``: predicts images by a run's student."""

from __future__ import annotations

import argparse
import csv
import glob
import io
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from stillhouse.cli.common import Commands, add_device, add_run, importing, make_console
from stillhouse.errors import StillhouseError
from stillhouse.files import to_json, write_text
from stillhouse.terminal import make_table, printable

if TYPE_CHECKING:
    from stillhouse.students.prediction import Predicted

__all__ = ["add", "list_images", "to_csv"]

_MOST = 100_000
"""Files that are listed for one name: below the root of a disk there is no end of them."""

_SHOWN = 5
"""Entries of a list that a table's cell shows."""


def add(commands: Commands) -> None:
    """Add the command."""
    predict = commands.add_parser("predict", help="have a run's student look at images")
    add_run(predict)
    predict.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image files, folders of images, or patterns: 'new/*.jpg'"
    )
    predict.add_argument("--out", metavar="DIR", default="predictions", help="where pictures go (default: predictions)")
    predict.add_argument("--no-pictures", action="store_true", help="draw none")
    predict.add_argument(
        "--maps",
        metavar="DIR",
        help="write a PNG of each image's own size there: class indices (segmentation), 16-bit millimetres (depth), or the "
        "picture that was made, as it was made",
    )
    predict.add_argument(
        "--size",
        type=_parse_size,
        metavar="HxW",
        help="resize to 240x320, or own: leave each image its size (default: the recipe's size, if it has one)",
    )
    predict.add_argument("--csv", metavar="FILE", help="write a table too: a row for each image, or for each box")
    predict.add_argument("--force", action="store_true", help="write over files that exist")
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

    if arguments.csv is not None and Path(arguments.csv).exists() and not arguments.force:
        raise StillhouseError("is there already", where=arguments.csv, hint="--force writes over it")
    if arguments.csv is not None and not Path(arguments.csv).resolve().parent.is_dir():
        raise StillhouseError("cannot be written: there is no such folder", where=arguments.csv)
    found = predict(
        arguments.run,
        list_images(arguments.images),
        out=None if arguments.no_pictures else arguments.out,
        maps=arguments.maps,
        size=None if arguments.size == "own" else arguments.size,
        own_size=arguments.size == "own",
        weights=arguments.weights,
        averaged=arguments.averaged,
        trust=arguments.trust,
        device=arguments.device,
        force=arguments.force,
    )
    if arguments.csv is not None:
        write_text(Path(arguments.csv), to_csv(found))
    if arguments.json:
        print(to_json([attrs.asdict(each) for each in found]))
    else:
        _show(found)
    return 0


def list_images(named: Sequence[str]) -> list[str]:
    """List the files that are meant by files, folders, at any depth, and patterns, each by name.

    Raises:
        StillhouseError: a folder without images, a pattern that matches nothing, or a whole disk.
    """
    from stillhouse.data.files import Walk
    from stillhouse.data.images import SUFFIXES

    found: list[str] = []
    for text in named:
        path = Path(text)
        if path.is_dir():
            inside = sorted(str(path / file.path) for file in Walk(path).list_files(path, SUFFIXES, most=_MOST))
            if not inside:
                raise StillhouseError("this folder holds no images", where=text)
        elif path.exists() or not any(sign in text for sign in "*?["):
            inside = [text]  # one that is not there is said with the others
        else:
            matched = list(islice(glob.iglob(text, recursive=True), _MOST + 1))  # noqa: PTH207 - as typed
            if len(matched) > _MOST:
                raise StillhouseError(f"this pattern matches more than {_MOST:,} files", where=text)
            inside = sorted(name for name in matched if Path(name).is_file())
            if not inside:
                raise StillhouseError("no file matches this pattern", where=text)
        found += inside
    return list(dict.fromkeys(found))


def to_csv(found: Sequence[Predicted]) -> str:
    """A table of predictions: a row for each image, or for each box where there are boxes.

    ``height`` and ``width`` are the image's own, which boxes are in; ``map`` is the file of its map, where there is one.
    """
    rows: list[dict[str, Any]] = []
    for each in found:
        name = each.image.encode("utf-8", "backslashreplace").decode()  # whatever bytes a file is called by
        about = {"image": name, "height": each.own_size[0], "width": each.own_size[1]}
        about |= {} if each.map is None else {"map": each.map}
        objects = each.prediction.get("objects")
        if objects is None:
            rows.append({**about, **_flatten(each.prediction)})
        else:
            corners = ("x1", "y1", "x2", "y2")
            rows += [
                {**about, "class": o["class"], "score": o["score"], **dict(zip(corners, o["box"], strict=True))}
                for o in objects
            ] or [about]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _flatten(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """What a task says of one image as columns: numbers by name, classes with their probabilities or shares."""
    flat: dict[str, Any] = {}
    for key, value in prediction.items():
        if isinstance(value, dict):
            flat |= {f"{key} {name}": number for name, number in value.items()}
        elif isinstance(value, list) and all(isinstance(v, dict) and "class" in v and len(v) == 2 for v in value):
            flat |= {
                f"{next(k for k in v if k != 'class')} {v['class']}": next(n for k, n in v.items() if k != "class")
                for v in value
            }
        elif isinstance(value, list):
            flat[key] = ";".join(map(str, value))
        else:
            flat[key] = value
    return flat


def _show(found: list[Predicted]) -> None:
    keys = list(dict.fromkeys(key for each in found for key in each.prediction))
    files = [name for name in ("picture", "map") if any(getattr(each, name) for each in found)]
    resized = ["seen as"] if any(each.size != each.own_size for each in found) else []
    table = make_table("image", "size", *resized, *keys, *files)
    for each in found:
        sizes = ["x".join(map(str, size)) for size in (each.own_size, each.size)]
        cells = [_format_value(each.prediction.get(key, "")) for key in keys]
        shown = [
            printable(each.image),
            *sizes[: 1 + len(resized)],
            *cells,
            *(getattr(each, name) or "" for name in files),
        ]
        table.add_row(*(Text(cell, overflow="fold") for cell in shown))
    console = make_console()
    console.print(table)
    for about in dict.fromkeys(each.map_about for each in found if each.map):
        console.print(Text(f"maps: {about}"), soft_wrap=True)


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
