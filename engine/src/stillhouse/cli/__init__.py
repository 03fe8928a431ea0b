"""The command ``stillhouse``: one module a command, found by entry point. torch is imported when a command runs.

Imports: everything below, which is all.
Public: common.
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from rich.text import Text

from stillhouse.cli.common import trust_as_told
from stillhouse.cli.parser import parse
from stillhouse.distributed.signals import Terminated, raising
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.terminal import Terminal

__all__ = ["command", "main"]

_MOST_FAULTS = 30
"""Faults that are shown at once."""


def command() -> NoReturn:
    """The process ``stillhouse``: :func:`main`, and then the end."""
    code = main()
    gc.freeze()  # nothing is looked through at the end: see `importing`
    parallel = sys.modules.get("stillhouse.distributed.processes")  # imported by a command that trains, if at all
    if parallel is not None:
        parallel.end(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    The exit code is 0, 1 where ``plugins --check`` or ``plugin check`` finds something, 2 for bad input or a full disk, 130 after Ctrl-C, and
    128 and the signal's number after SIGTERM and SIGHUP.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    errors = Terminal(stderr=True)
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
        code, terminated = None, False
        try:
            with raising():
                parsed = parse(given)
                parsed.typed = shlex.join(["stillhouse", *given])  # for what a command writes about itself
                with trust_as_told(parsed):
                    code = _run(parsed)
                sys.stdout.flush()
            return code
        except StillhouseError as error:
            for fault in error.faults[:_MOST_FAULTS]:
                errors.print(Text.assemble(said_by, ("error: ", "bold red"), str(fault)), soft_wrap=True)
            if len(error.faults) > _MOST_FAULTS:
                errors.print(f"and {len(error.faults) - _MOST_FAULTS} more", soft_wrap=True)
            for note in getattr(error, "__notes__", []):
                errors.print(Text(note), soft_wrap=True)
            return error.exit_code
        except BrokenPipeError:  # whoever read our output has had enough: `stillhouse ... --json | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:  # a name that is too long, a folder that may not be read, a disk that is full
            where = f"{str(error.filename)[:200]}: " if error.filename else ""
            text = f"{where}{error.strerror or error}"
            errors.print(Text.assemble(said_by, ("error: ", "bold red"), text), soft_wrap=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                with suppress(OSError):  # what is buffered would be tried again at the end, and end in a traceback
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 2
        except (KeyboardInterrupt, Terminated) as ended:
            terminated = isinstance(ended, Terminated)
            text = f"{said_by}{ended if isinstance(ended, Terminated) else 'interrupted'}{_how_to_go_on(given)}"
            errors.print(Text(text), soft_wrap=True)
            return ended.exit_code if isinstance(ended, Terminated) else 130
        finally:
            joined = sys.modules.get("stillhouse.distributed.processes")  # imported by a command that trains, if at all
            if joined is not None:
                # On a signal, too, all of several processes stop after one step, in order.
                joined.leave(done=code == 0 or terminated)
            gc.unfreeze()  # what `importing` has left out, where somebody's own process runs the command


def _run(parsed: argparse.Namespace) -> int:
    """Run the command; code that it calls and that ends the process is an error, and no silent success."""
    try:
        return int(parsed.function(parsed))
    except SystemExit as error:
        raise StillhouseError(
            f"code that the command called has ended the process: SystemExit: {error}", where=str(parsed.command)
        ) from error


def _how_to_go_on(given: Sequence[str]) -> str:
    if given[:1] == ["train"]:
        words = ["stillhouse", *given, *(() if "--resume" in given else ("--resume",))]
        return f"; go on with: {shlex.join(words)}"
    return "; the same command goes on" if given[:1] in (["ablate"], ["experiment"]) else ""
