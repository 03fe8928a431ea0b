"""The command ``stillhouse``: one module a command.

torch is imported by the commands that need it, when they run, so that ``plugins`` and ``--help`` are quick.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from stillhouse.cli import ablate, compare, evaluate, export, plugins, predict, train
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.version import __version__

__all__ = ["command", "main"]

_MODULES = (train, evaluate, predict, export, ablate, compare, plugins)
"""Each has ``add(commands)``, which adds its commands to the parser, in the order in which the help shows them."""

_GROUP = "stillhouse.commands"
"""Entry points to further modules of that form, which other distributions bring."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stillhouse", description="Train a student network by distillation; a list of plugins is the method."
    )
    parser.add_argument("--version", action="version", version=f"stillhouse {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in _MODULES:
        module.add(commands)
    for entry in sorted(entry_points(group=_GROUP), key=lambda entry: entry.name):
        try:
            entry.load().add(commands)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code can raise anything; it is reported
            if entry.name not in commands.choices:
                broken = f"broken: {type(error).__name__}: {error}".replace("%", "%%")
                commands.add_parser(entry.name, help=broken).set_defaults(function=_refuse(entry.name, str(error)))
    return parser


def _refuse(name: str, why: str) -> Callable[[argparse.Namespace], int]:
    def refuse(_: argparse.Namespace) -> int:
        raise StillhouseError(f"the command {name!r} cannot be imported: {why}")

    return refuse


def command() -> NoReturn:
    """The process ``stillhouse``: :func:`main`, and then the end."""
    code = main()
    parallel = sys.modules.get("stillhouse.distributed.processes")  # imported by a command that trains, if at all
    if parallel is not None:
        parallel.end(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 1 where ``plugins --check`` finds a broken one, 2 for bad input, 130 after an interruption."""
    parsed = _parser().parse_args(arguments)
    errors = Console(stderr=True)
    rank = os.environ.get("RANK", "0")
    said_by = "" if rank == "0" else f"rank {rank}: "
    with warnings.catch_warnings():
        warnings.simplefilter("default", StillhouseWarning)
        shown = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, StillhouseWarning):
                errors.print(Text(f"{said_by}warning: {message}", style="yellow"), soft_wrap=True)
            else:
                shown(message, category, *rest, **more)

        warnings.showwarning = show
        code = None
        try:
            code = int(parsed.function(parsed))
            return code
        except StillhouseError as error:
            for fault in error.faults:
                errors.print(Text.assemble(said_by, ("error: ", "bold red"), str(fault)), soft_wrap=True)
            for note in getattr(error, "__notes__", []):
                errors.print(Text(note), soft_wrap=True)
            return error.exit_code
        except BrokenPipeError:  # whoever read our output has had enough: `stillhouse ... --json | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except KeyboardInterrupt:
            hint = "; go on with --resume" if parsed.command == "train" else ""
            errors.print(f"interrupted{hint}", soft_wrap=True)
            return 130
        finally:
            joined = sys.modules.get("stillhouse.distributed.processes")  # imported by a command that trains, if at all
            if joined is not None:
                joined.leave(done=code == 0)
