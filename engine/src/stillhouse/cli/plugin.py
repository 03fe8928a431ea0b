"""``stillhouse plugin``: for authors of plugins: one is tried by the conformance kit."""

from __future__ import annotations

import argparse
from typing import Any

from stillhouse.cli.common import Commands, make_console
from stillhouse.files import to_json

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command, and its own commands."""
    plugin = commands.add_parser("plugin", help="for authors: check a plugin")
    own = plugin.add_subparsers(dest="of_plugin", required=True, metavar="WHAT")
    _add_check(own)
    plugin.set_defaults(function=_plugin)


def _plugin(arguments: argparse.Namespace) -> int:
    return int(arguments.of_function(arguments))


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
