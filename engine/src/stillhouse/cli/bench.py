"""``stillhouse bench``: latency, throughput and size of student and teacher, side by side."""

from __future__ import annotations

import argparse

from stillhouse.cli.common import Commands, add_trust, importing, make_console
from stillhouse.files import to_json
from stillhouse.terminal import make_table

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    bench = commands.add_parser("bench", help="how fast and how large student and teacher are, and exported programs")
    bench.add_argument("run", metavar="RUN", help="a run's folder")
    bench.add_argument("files", metavar="FILE", nargs="*", help="exported programs, .onnx or .pt2")
    bench.add_argument("--batch", type=int, default=32, metavar="N", help="inputs in a batch, for the throughput (32)")
    bench.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (1)")
    bench.add_argument("--device", default="cpu", metavar="NAME", help="of student and teacher (cpu)")
    bench.add_argument("--json", action="store_true", help="print it as JSON")
    add_trust(bench)
    bench.set_defaults(function=_bench)


def _bench(arguments: argparse.Namespace) -> int:
    import attrs

    with importing():
        from stillhouse.students.timing import list_columns, measure

    found = measure(
        arguments.run,
        arguments.files,
        batch=arguments.batch,
        threads=arguments.threads,
        device=arguments.device,
        trust=arguments.trust,
    )
    if arguments.json:
        print(to_json([attrs.asdict(timing) for timing in found]))
        return 0
    table = make_table(*list_columns(arguments.batch))
    for timing in found:
        table.add_row(*timing.format_cells())
    console = make_console()
    console.print(table)
    teacher = next((timing for timing in found if timing.name == "teacher"), None)
    if teacher is not None:
        student = found[0]
        console.print(
            f"The student is {teacher.mebibytes / student.mebibytes:.3g} times smaller than its teacher, and "
            f"{student.throughput / teacher.throughput:.3g} times as fast in batches."
        )
    return 0
