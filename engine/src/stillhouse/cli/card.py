"""``stillhouse card``: a run's model card, in Markdown."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.text import Text

from stillhouse.cli.common import Commands, add_run, importing
from stillhouse.errors import StillhouseError
from stillhouse.files import write_text
from stillhouse.terminal import Terminal

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    card = commands.add_parser("card", help="a run's model card in Markdown: what its student is and is worth")
    add_run(card)
    card.add_argument("--to", metavar="FILE", help="write it there (default: print it)")
    card.add_argument(
        "--evaluate",
        action="store_true",
        help="measure these weights on every split (default: what the run has measured of its last ones)",
    )
    card.add_argument("--bench", action="store_true", help="measure size and speed, of the teacher too")
    card.add_argument("--force", action="store_true", help="write over a file that exists")
    card.set_defaults(function=_card)


def _card(arguments: argparse.Namespace) -> int:
    with importing():
        from stillhouse.students.card import make_card

    if arguments.to is not None and Path(arguments.to).exists() and not arguments.force:
        raise StillhouseError("is there already", where=arguments.to, hint="--force writes over it")
    text = make_card(
        arguments.run,
        weights=arguments.weights,
        averaged=arguments.averaged,
        measured=arguments.evaluate,
        timed=arguments.bench,
        trust=arguments.trust,
    )
    if arguments.to is None:
        print(text, end="")
    else:
        write_text(Path(arguments.to), text)
        Terminal().print(Text(arguments.to), soft_wrap=True)
    return 0
