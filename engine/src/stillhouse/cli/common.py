"""Arguments of several commands, which name a recipe, a run or a device, and the console of tables."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.config.overrides import parse_value
from stillhouse.config.trust import lies_in_run, reading_stored, trusting
from stillhouse.terminal import Terminal

if TYPE_CHECKING:
    from stillhouse.config.recipe import Recipe

__all__ = [
    "SHORT_FORMS",
    "Commands",
    "add_device",
    "add_quiet",
    "add_recipe",
    "add_run",
    "add_skip_bad",
    "add_trust",
    "collect_overrides",
    "importing",
    "load_recipe_of",
    "make_console",
    "trust_as_told",
]

Commands = Any
"""What ``add_subparsers`` gives: ``add_parser(NAME, help=...)``; argparse keeps its type to itself."""

SHORT_FORMS = {
    "--epochs": ("run.epochs", "N"),
    "--lr": ("optimizer.lr", "RATE"),
    "--batch-size": ("data.batch_size", "N"),
    "--device": ("run.device", "NAME"),
    "--data": ("data.name", "SOURCE"),
}
"""The keys that are changed most often: an option's key, and what its value is called."""

_NO_LIMIT = 10_000
"""Characters in a line that goes to a file or a pipe."""


@contextmanager
def importing() -> Iterator[None]:
    """Import what a command needs without looking for garbage, and leave it out of every later look: all of it stays.

    Python looks through all objects again and again while their number grows, and once more when it ends. With torch these
    are hundreds of thousands, and the looks take as long as the imports. ``main`` gives back what is left out here.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add RECIPE and its overrides: ``--set``, the short forms of :data:`SHORT_FORMS`, ``--plugins``, ``--skip-bad``."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe in TOML, YAML or JSON")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key: --set optimizer.lr=3e-4 --set plugins.projector.kind=mlp",
    )
    for option, (key, metavar) in SHORT_FORMS.items():
        parser.add_argument(option, dest=key, metavar=metavar, help=f"short for --set {key}={metavar}")
    parser.add_argument(
        "--plugins",
        metavar="LIST",
        help="run these plugins instead: features,projector=linear (an empty list: none)",
    )
    add_skip_bad(parser)
    add_trust(parser)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add RUN, ``--weights`` and ``--averaged``."""
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--weights",
        choices=("best", "last"),
        help="of the best epoch on the validation split, or the last (default: best, where the run has kept it)",
    )
    add_trust(parser)
    parser.add_argument(
        "--averaged", action="store_true", help="the averaged weights of a run with [ema], whatever it measured itself"
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust``, which :func:`trust_as_told` obeys."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="import what a run's folder names by package.module:attribute too, which is code (default: only what is "
        "installed under a name)",
    )


def trust_as_told(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """Let runs name any code with ``--trust``; a RECIPE that lies in a run's folder is as little trusted as the run.

    What ``--set`` and ``--plugins`` name, the person has named herself.
    """
    recipe = getattr(arguments, "recipe", None)
    if getattr(arguments, "trust", False) is True:
        return trusting()
    if not isinstance(recipe, str) or not hasattr(arguments, "overrides") or not lies_in_run(recipe):
        return nullcontext()
    values = [text.partition("=")[2].strip() for text in collect_overrides(arguments)]
    plugins = (getattr(arguments, "plugins", None) or "").split(",")
    named = [*map(parse_value, values), *(plugin.strip().partition("=")[0] for plugin in plugins)]
    return reading_stored(Path(recipe).parent, named=[name for name in named if isinstance(name, str)])


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, ... (default: as the recipe says)")


def add_skip_bad(parser: argparse.ArgumentParser) -> None:
    """Add ``--skip-bad``."""
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out samples that cannot be read (data.skip_bad = true)"
    )


def add_quiet(parser: Any) -> None:
    """Add ``--quiet`` to a parser, or to a group of one."""
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")


def collect_overrides(arguments: argparse.Namespace) -> list[str]:
    """Collect the overrides of ``--skip-bad``, of the short forms, and of ``--set``, which come last."""
    given = {key: getattr(arguments, key, None) for key, _ in SHORT_FORMS.values()}
    short = [f"{key}={value}" for key, value in given.items() if value is not None]
    return [*(["data.skip_bad=true"] if arguments.skip_bad else []), *short, *arguments.overrides]


def load_recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Load the recipe of the arguments of :func:`add_recipe`."""
    from stillhouse.training.selection import load_recipe

    return load_recipe(arguments.recipe, overrides=collect_overrides(arguments), plugins=arguments.plugins)


def make_console() -> Terminal:
    """Make the console of standard output; without a terminal its lines have any length, so that logs lose nothing."""
    console = Terminal()
    return console if console.is_terminal else Terminal(width=_NO_LIMIT)
