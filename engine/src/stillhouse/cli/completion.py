"""``stillhouse completion SHELL``: prints what a shell needs to complete commands, options and files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from stillhouse.cli.common import Commands
from stillhouse.cli.parser import make_parser

__all__ = ["add"]

_HOW = """\
put this into the shell's own file, once:
  bash  stillhouse completion bash > ~/.local/share/bash-completion/completions/stillhouse
  zsh   stillhouse completion zsh > ~/.zfunc/_stillhouse    (with fpath+=~/.zfunc before compinit)
  tcsh  stillhouse completion tcsh >> ~/.tcshrc"""

_FILES, _FOLDERS = ("RECIPE", "FILE", "IMAGE", "PLAN"), ("RUN", "DIR", "FOLDER")


def add(commands: Commands) -> None:
    """Add the command."""
    completion = commands.add_parser(
        "completion",
        help="print a completion script for a shell",
        epilog=_HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="which shell's")
    completion.set_defaults(function=_print_script)


def _print_script(arguments: argparse.Namespace) -> int:
    import shtab

    parser = make_parser()
    for action in _list_actions(parser):
        named = action.metavar if isinstance(action.metavar, str) else ""
        if named in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab looks for it there
        elif named in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # likewise
    print(shtab.complete(parser, arguments.shell))
    return 0


def _list_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # argparse has no public list; shtab reads this one as well
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _list_actions(command)
