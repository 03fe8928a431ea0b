"""Arguments of several commands, which name a recipe, a run or a device, and the console of tables."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from stillhouse.config.recipe import Recipe

__all__ = [
    "Commands",
    "add_device",
    "add_recipe",
    "add_run",
    "add_skip_bad",
    "collect_overrides",
    "load_recipe_of",
    "make_console",
]

Commands = Any
"""What ``add_subparsers`` gives: ``add_parser(NAME, help=...)``; argparse keeps its type to itself."""

_NO_LIMIT = 10_000
"""Characters in a line that goes to a file or a pipe."""


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add RECIPE and its overrides: ``--set``, ``--plugins``, ``--skip-bad``."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe in TOML")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key: --set optimizer.lr=3e-4 --set plugins.projector.kind=mlp",
    )
    parser.add_argument(
        "--plugins",
        metavar="LIST",
        help="run these plugins instead: features,projector=linear (an empty list: none)",
    )
    add_skip_bad(parser)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add RUN, ``--weights`` and ``--averaged``."""
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--weights",
        choices=("best", "last"),
        help="of the best epoch on the validation split, or the last (default: best, where the run has kept it)",
    )
    parser.add_argument(
        "--averaged", action="store_true", help="the averaged weights of a run with [ema], whatever it measured itself"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, ... (default: as the recipe says)")


def add_skip_bad(parser: argparse.ArgumentParser) -> None:
    """Add ``--skip-bad``."""
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out samples that cannot be read (data.skip_bad = true)"
    )


def collect_overrides(arguments: argparse.Namespace) -> list[str]:
    """Collect the overrides of ``--set`` and ``--skip-bad``."""
    return [*(["data.skip_bad=true"] if arguments.skip_bad else []), *arguments.overrides]


def load_recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Load the recipe of the arguments of :func:`add_recipe`."""
    from stillhouse.training.selection import load_recipe

    return load_recipe(arguments.recipe, overrides=collect_overrides(arguments), plugins=arguments.plugins)


def make_console() -> Console:
    """Make the console of standard output; without a terminal its lines have any length, so that logs lose nothing."""
    console = Console()
    return console if console.is_terminal else Console(width=_NO_LIMIT)
