"""The parser of the command line: a command for each entry point of the group ``stillhouse.commands``.

The entry point's name is the command's. It leads to a module whose ``add(commands)`` calls ``commands.add_parser(NAME,
help=...)`` and sets the parser's default ``function``: it takes the parsed arguments and returns the exit code. Only the
command that is asked for is imported; the help imports all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from rich.text import Text

from stillhouse.cli.common import Commands
from stillhouse.entries import COMMANDS, Installed, error_text, find, installed, load_entry
from stillhouse.errors import StillhouseError
from stillhouse.terminal import Terminal
from stillhouse.version import __version__

__all__ = ["add_command", "check_command", "make_parser", "parse"]

_FIRST = (
    "init",
    "train",
    "explain",
    "evaluate",
    "predict",
    "export",
    "bench",
    "ablate",
    "compare",
    "teacher",
    "plugins",
    "plugin",
)
"""The order of the help; other commands follow by name."""


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments ``words``; ``function`` among them runs the command.

    Raises:
        StillhouseError: no such command, or one that is broken; a NUL character, which no file's name has.
    """
    for word in words:
        if "\0" in word:
            raise StillhouseError(f"an argument cannot have a NUL character, got {word[:60]!r}")
    if words and not words[0].startswith("-"):
        parser, commands = _make_bare_parser()
        add_command(commands, find(COMMANDS, words[0]), words[0])
    else:
        parser = make_parser()
    return parser.parse_args(words)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser with every command; a broken one is listed with its error."""
    parser, commands = _make_bare_parser()
    every = installed(COMMANDS)
    uses = [found.use for found in every]
    for found in sorted(every, key=lambda f: (_FIRST.index(f.use) if f.use in _FIRST else len(_FIRST), f.use)):
        name = found.use if uses.count(found.use) == 1 else f"{found.distribution}:{found.use}"
        try:
            add_command(commands, found, name)
        except StillhouseError as error:
            if name not in commands.choices:
                commands.add_parser(name, help=f"broken: {error.faults[0].what}".replace("%", "%%"))
    return parser


class _Parser(argparse.ArgumentParser):
    """argparse's, whose messages show what was typed as it is, whatever characters are in it."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, and exit with code 2."""
        self.print_usage(sys.stderr)
        Terminal(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
        self.exit(2)


def _make_bare_parser() -> tuple[argparse.ArgumentParser, Commands]:
    parser = _Parser(
        prog="stillhouse", description="Train a student network by distillation; a list of plugins is the method."
    )
    parser.add_argument("--version", action="version", version=f"stillhouse {__version__}")
    return parser, parser.add_subparsers(dest="command", required=True, metavar="COMMAND")


def add_command(commands: Commands, found: Installed, name: str) -> None:
    """Add the command of an entry point's module.

    Args:
        commands: what ``add_subparsers`` gave.
        found: the entry point.
        name: what the command is called here: the entry point's name, or ``DISTRIBUTION:NAME``.

    Raises:
        StillhouseError: the module cannot be imported, or adds something else than one command of the entry point's name.
    """
    module = load_entry(found, COMMANDS)
    what, hint = f"the command {found.use!r}", f"from {found.origin}"
    add = getattr(module, "add", None)
    if not callable(add):
        raise StillhouseError(f"{what} needs a function add(commands) in {found.target}", hint=hint)
    only = _OneCommand(commands, found.use, name)
    try:
        add(only)
    except (Exception, SystemExit) as error:  # foreign code can raise anything; it is reported
        raise StillhouseError(f"{what} cannot be added: {error_text(error)}", hint=hint) from error
    if only.parser is None or only.parser.get_default("function") is None:
        missing = "adds no parser" if only.parser is None else "has no function: parser.set_defaults(function=...)"
        raise StillhouseError(f"{what} {missing}", hint=hint)


def check_command(found: Installed) -> None:
    """Check a command; raises as :func:`add_command`."""
    add_command(_make_bare_parser()[1], found, found.use)


class _OneCommand:
    """The ``commands`` that a module's ``add`` gets: takes one parser, of the entry point's name.

    Args:
        commands: what ``add_subparsers`` gave.
        use: the entry point's name.
        name: what the parser is called there.
    """

    def __init__(self, commands: Commands, use: str, name: str) -> None:
        self._commands, self._use, self._name = commands, use, name
        self.parser: argparse.ArgumentParser | None = None

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """See argparse."""
        if name != self._use or self.parser is not None:
            raise StillhouseError(f"must add the command {self._use!r} only, got {name!r}")
        self.parser = self._commands.add_parser(self._name, **options)
        return self.parser
