"""``stillhouse plugin``: for authors of plugins: a package is made, brought up to date, and tried by the conformance kit."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from stillhouse.cli.common import Commands, make_console
from stillhouse.errors import StillhouseError
from stillhouse.files import to_json

__all__ = ["add"]

_KINDS = ("output", "loss", "transform", "links", "student", "teacher", "observer", "task")
"""As :data:`stillhouse.testing.scaffold.KINDS` has them, which takes torch to be read."""


def add(commands: Commands) -> None:
    """Add the command, and its own commands."""
    plugin = commands.add_parser("plugin", help="for authors: make a plugin's package, and check a plugin")
    own = plugin.add_subparsers(dest="of_plugin", required=True, metavar="WHAT")
    _add_new(own)
    _add_check(own)
    _add_update(own)
    plugin.set_defaults(function=_plugin)


def _plugin(arguments: argparse.Namespace) -> int:
    return int(arguments.of_function(arguments))


def _add_new(own: Commands) -> None:
    new = own.add_parser("new", help="make a package for a plugin, with tests that pass and a recipe to train")
    new.add_argument("name", metavar="NAME", help="what recipes are to call it")
    new.add_argument("--kind", default="loss", choices=_KINDS, help="the skeleton (default: loss)")
    new.add_argument("--out", metavar="DIR", help="the package's folder (default: stillhouse-NAME)")
    new.add_argument("--summary", default="", metavar="TEXT", help="what it does, in one sentence")
    new.add_argument("--install", action="store_true", help="install it as well, in editable form, into this Python")
    new.set_defaults(of_function=_new)


def _new(arguments: argparse.Namespace) -> int:
    from stillhouse.testing.scaffold import make_package

    folder = make_package(arguments.name, arguments.kind, folder=arguments.out, summary=arguments.summary)
    console = make_console()
    console.print(f"made {folder}", soft_wrap=True)
    path = shlex.quote(str(folder))
    if arguments.install:
        _install(folder)
    else:
        console.print(f"  python -m pip install -e {path}", soft_wrap=True)
    console.print(f"  python -m pytest {path}", soft_wrap=True)
    console.print(f"  stillhouse train {path}/recipe.toml", soft_wrap=True)
    return 0


def _install(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "-e", str(folder)]
    if subprocess.run(command, check=False).returncode:  # noqa: S603 - this Python's pip, on the folder just made
        raise StillhouseError("pip could not install it", where=str(folder), hint="its own message stands above")


def _add_update(own: Commands) -> None:
    update = own.add_parser("update", help="bring a package made by `new` up to this version's template")
    update.add_argument("folder", nargs="?", default=".", metavar="DIR", help="the package's folder (default: .)")
    update.set_defaults(of_function=_update)


def _update(arguments: argparse.Namespace) -> int:
    from stillhouse.testing.scaffold import update_package

    changed = update_package(arguments.folder)
    console = make_console()
    for path in changed:
        console.print(f"changed {path}", soft_wrap=True)
    if not changed:
        console.print("nothing has changed")
    return 0


def _add_check(own: Commands) -> None:
    check = own.add_parser("check", help="try a plugin in short runs, and say what it does wrong")
    check.add_argument("name", metavar="NAME", help="its name as recipes have it, or package.module:Class")
    check.add_argument(
        "--recipe", metavar="R", help="try it in this recipe's run, where it has its place and its options"
    )
    check.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the plugin, beside those of its class variable `example`: --set layer=stage3; with --recipe "
        "a key of the recipe",
    )
    check.add_argument(
        "--only", action="append", default=[], metavar="CHECK", help="make this check alone; may be given again"
    )
    check.add_argument(
        "--slow", action="store_true", help="compiled models and two processes as well, half a minute each"
    )
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.set_defaults(of_function=_check)


def _check(arguments: argparse.Namespace) -> int:
    from stillhouse.config.overrides import apply_override
    from stillhouse.registry.plugins import load
    from stillhouse.testing import check_plugin
    from stillhouse.training.selection import load_recipe

    options: dict[str, Any] = {}
    recipe = None
    if arguments.recipe is not None:
        recipe = load_recipe(arguments.recipe, overrides=arguments.overrides)
    elif arguments.overrides:
        options.update(load(arguments.name)[0].example)
        for override in arguments.overrides:
            apply_override(options, override)
    report = check_plugin(
        arguments.name, options=options or None, recipe=recipe, slow=arguments.slow, only=arguments.only
    )
    if arguments.json:
        print(to_json(report.to_dict()))
    else:
        report.print(make_console())
    return 0 if report.passed else 1
