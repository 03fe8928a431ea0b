"""``stillhouse evaluate``: evaluates a run's student, as tables or JSON."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from rich.text import Text

from stillhouse.cli.common import (
    Commands,
    add_device,
    add_run,
    add_skip_bad,
    collect_overrides,
    importing,
    make_console,
)
from stillhouse.files import to_json
from stillhouse.terminal import make_table

if TYPE_CHECKING:
    from stillhouse.students.evaluation import Measured

__all__ = ["add"]

_MANY = 60
"""More classes than this are not all shown."""


def add(commands: Commands) -> None:
    """Add the command."""
    evaluate = commands.add_parser("evaluate", help="measure a run's student, on its data or others")
    add_run(evaluate)
    evaluate.add_argument(
        "--split", metavar="NAME", help="test, val, train or all (default: test, else val, else train)"
    )
    evaluate.add_argument(
        "--data", metavar="DATA", help="other data: a recipe, whose [data] is taken, or a name such as folder:PATH"
    )
    evaluate.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of [data]: --set data.size=64",
    )
    add_skip_bad(evaluate)
    evaluate.add_argument("--batch-size", type=int, metavar="N", help="samples in a batch (default: the recipe's)")
    add_device(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print it as JSON")
    evaluate.set_defaults(function=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    with importing():
        from stillhouse.students.evaluation import evaluate

    found = evaluate(
        arguments.run,
        split=arguments.split,
        data=arguments.data,
        overrides=collect_overrides(arguments),
        weights=arguments.weights,
        averaged=arguments.averaged,
        trust=arguments.trust,
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
    if arguments.json:
        import attrs

        print(to_json(attrs.asdict(found)))
    else:
        _show(found)
    return 0


def _show(found: Measured) -> None:
    console = make_console()
    about = f"{found.run}  {found.weights} weights (step {found.step})  {found.data}  {found.device}"
    console.print(Text(about), soft_wrap=True)
    table = make_table("metric", *(f"{split} ({n:,})" for split, n in found.samples.items()))
    for name in dict.fromkeys(n for values in found.metrics.values() for n in values):
        table.add_row(name, *(f"{found.metrics[s].get(name, math.nan):.4f}" for s in found.samples))
    console.print(table)
    for split, vectors in found.per_class.items():
        if vectors:
            console.print(_make_class_table(split, vectors, found.class_names))


def _make_class_table(split: str, vectors: dict[str, list[float]], names: tuple[str, ...]) -> Any:
    rows = list(range(len(names)))
    title = f"{split}, by class"
    if len(rows) > _MANY:
        first = next(iter(vectors))
        rows = sorted(rows, key=lambda i: (math.isnan(vectors[first][i]), vectors[first][i]))[: _MANY // 2]
        title += f": the {len(rows)} of {len(names)} with the lowest {first} (--json has all)"
    table = make_table("class", *vectors, title=title)
    for i in rows:
        table.add_row(Text(names[i]), *("-" if math.isnan(v[i]) else f"{v[i]:.4f}" for v in vectors.values()))
    return table
