"""``stillhouse export``: writes a run's student to a file and verifies it."""

from __future__ import annotations

import argparse
import math
from typing import Any

from rich.text import Text

from stillhouse.cli.common import Commands, add_run, importing, make_console
from stillhouse.errors import StillhouseError
from stillhouse.files import to_json
from stillhouse.terminal import Terminal, make_table

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    export = commands.add_parser("export", help="write a run's student to a file: safetensors, torch.export, ONNX")
    add_run(export)
    export.add_argument("--to", required=True, metavar="FILE", help="student.safetensors, student.pt2, student.onnx")
    export.add_argument(
        "--format", choices=("safetensors", "torch", "onnx"), help="whatever the file's suffix (default: by suffix)"
    )
    export.add_argument(
        "--batch", type=_parse_batch, metavar="N", help="samples that the program takes: a number, or dynamic (default)"
    )
    export.add_argument(
        "--with-preprocessing",
        action="store_true",
        help="the program takes images of 0 to 1 and normalises them itself",
    )
    export.add_argument(
        "--int8",
        action="store_true",
        help="ONNX of 8-bit integers, calibrated on validation inputs, with its figures beside the float program's",
    )
    export.add_argument("--no-fold", action="store_true", help="leave the plugins out: the student alone, as trained")
    export.add_argument("--force", action="store_true", help="write over a file that exists")
    export.add_argument("--json", action="store_true", help="print what was written, and its metadata, as JSON")
    export.set_defaults(function=_export)


def _parse_batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number or dynamic, got {text!r}") from None


def _export(arguments: argparse.Namespace) -> int:
    import attrs

    if arguments.int8:
        return _export_int8(arguments)
    with importing():
        from stillhouse.students.export import export

    done = export(arguments.run, arguments.to, format=arguments.format, **_collect_options(arguments))
    if arguments.json:
        print(to_json({**attrs.asdict(done), "path": str(done.path), "batch": done.batch or "any"}))
        return 0
    console = Terminal()
    size = done.path.stat().st_size / 2**20
    batch = "any number of samples" if not done.batch else f"{done.batch} samples"
    takes = "" if done.format == "safetensors" else f"; takes {batch}, {done.metadata['input']}"
    for line in (
        f"{done.path}  {done.format}, {size:.2f} MiB, {done.weights} weights (step {done.step}){takes}",
        f"checked on {done.samples} inputs of the split {done.split!r}: the greatest difference from the student is "
        f"{done.difference:.3g}, where {done.tolerance:.3g} would be rounding",
    ):
        console.print(Text(line), soft_wrap=True)
    return 0


def _collect_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that both forms of an export take."""
    names = ("weights", "averaged", "trust", "batch", "with_preprocessing", "force")
    return {**{name: getattr(arguments, name) for name in names}, "fold_plugins": not arguments.no_fold}


def _export_int8(arguments: argparse.Namespace) -> int:
    import attrs

    with importing():
        from stillhouse.students.quantization import export_int8

    if arguments.format not in (None, "onnx"):
        raise StillhouseError("writes ONNX alone", where="--int8", hint="leave out --format")
    done = export_int8(arguments.run, arguments.to, **_collect_options(arguments))
    path = done.exported.path
    if arguments.json:
        told = attrs.asdict(done)
        print(to_json({**told, "exported": {**told["exported"], "path": str(path)}}))
        return 0
    console = make_console()
    size, before = (n / 2**20 for n in (path.stat().st_size, done.float_bytes))
    for line in (
        f"{path}  int8 onnx, {size:.2f} MiB, where float is {before:.2f}, {done.exported.weights} weights "
        f"(step {done.exported.step}); takes {done.exported.metadata['input']}",
        f"calibrated on {done.calibration_samples} inputs of the split {done.calibration_split!r}",
    ):
        console.print(Text(line), soft_wrap=True)
    table = make_table(f"{done.split} ({done.samples:,})", "float", "int8")
    for name, value in done.float_metrics.items():
        table.add_row(name, f"{value:.4f}", f"{done.int8_metrics.get(name, math.nan):.4f}")
    console.print(table)
    return 0
