"""``stillhouse explain``: describes a recipe's run before it is trained."""

from __future__ import annotations

import argparse
import os

from stillhouse.cli.common import Commands, add_recipe, importing, load_recipe_of, make_console
from stillhouse.files import to_json
from stillhouse.terminal import Terminal

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    explain = commands.add_parser("explain", help="show the composed method before it runs")
    add_recipe(explain)
    explain.add_argument(
        "--gradients",
        action="store_true",
        help="show what each loss term pulls at, by parameter group, on the first batch",
    )
    explain.add_argument("--json", action="store_true", help="print it as JSON")
    explain.set_defaults(function=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    with importing():
        from stillhouse.training.explanation import describe, render
        from stillhouse.training.preparation import prepare
        from stillhouse.training.term_gradients import make_gradient_table, measure_gradients

    training = prepare(load_recipe_of(arguments), write=False, train_teacher=False)
    try:
        description = describe(training)
        gradients = measure_gradients(training) if arguments.gradients else None
    finally:
        training.close()
    if arguments.json:
        print(to_json(description if gradients is None else {**description, "gradients": gradients}))
    else:
        # Its tables are wide: who wants them narrower in a file says so by COLUMNS, as shells do.
        console = Terminal() if "COLUMNS" in os.environ else make_console()
        render(description, console)
        if gradients is not None:
            console.print(make_gradient_table(gradients))
    return 0
