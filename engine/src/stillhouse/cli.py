"""The command ``stillhouse``. torch is imported by the subcommands that need it, so that ``plugins`` and ``--help`` are quick."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillhouse import __version__
from stillhouse.errors import StillhouseError, StillhouseWarning

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stillhouse", description="Train a student network by distillation; a list of plugins is the method."
    )
    parser.add_argument("--version", action="version", version=f"stillhouse {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a recipe's student")
    _add_recipe(train)
    train.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/NAME)")
    train.add_argument("--resume", action="store_true", help="go on in a folder that exists")
    train.add_argument("--quiet", action="store_true", help="show no progress")
    train.add_argument("--json", action="store_true", help="print the summary as JSON")
    train.set_defaults(function=_train)

    explain = commands.add_parser("explain", help="show the composed method before it runs")
    _add_recipe(explain)
    explain.add_argument("--json", action="store_true", help="print it as JSON")
    explain.set_defaults(function=_explain)

    plugins = commands.add_parser("plugins", help="list the installed plugins")
    plugins.add_argument("--check", action="store_true", help="import each and say whether it works")
    plugins.add_argument("--json", action="store_true", help="print them as JSON")
    plugins.set_defaults(function=_plugins)
    return parser


def _add_recipe(parser: argparse.ArgumentParser) -> None:
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


def _train(arguments: argparse.Namespace) -> int:
    from stillhouse.recipe import Recipe
    from stillhouse.training import train

    recipe = Recipe.load(arguments.recipe, overrides=arguments.overrides, plugins=arguments.plugins)
    folder = Path(arguments.out or Path("runs") / recipe.run.name)
    if arguments.resume and not folder.exists():
        warnings.warn(f"{folder}: there is no run to go on with, a new one begins", StillhouseWarning, stacklevel=1)
    result = train(recipe, out=arguments.out, resume=arguments.resume, progress=not arguments.quiet)
    if arguments.json:
        print(json.dumps({**result.summary, "folder": str(result.folder)}, indent=2))
        return 0
    _print_summary(result.summary, str(result.folder))
    return 0


def _print_summary(summary: dict[str, Any], folder: str) -> None:
    console = Console()
    plugins = ", ".join(summary["plugins"]) or "no plugins"
    console.print(f"[bold]{summary['name']}[/]  {plugins}  ({summary['seconds']:.1f} s)", highlight=False)
    splits = list(summary["metrics"])
    if splits:
        table = Table("metric", *splits, header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for name in dict.fromkeys(n for values in summary["metrics"].values() for n in values):
            table.add_row(name, *(f"{summary['metrics'][s].get(name, float('nan')):.4f}" for s in splits))
        console.print(table)
    if summary["best"]:
        (score, value), epoch = (
            next((k, v) for k, v in summary["best"].items() if k != "epoch"),
            summary["best"]["epoch"],
        )
        console.print(f"best {score} {value:.4f} in epoch {epoch}", highlight=False, markup=False)
    console.print(f"run folder   {folder}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"TensorBoard  tensorboard --logdir {folder}", highlight=False, markup=False, soft_wrap=True)


def _explain(arguments: argparse.Namespace) -> int:
    from stillhouse.explain import describe, render
    from stillhouse.recipe import Recipe
    from stillhouse.training import prepare

    recipe = Recipe.load(arguments.recipe, overrides=arguments.overrides, plugins=arguments.plugins)
    training = prepare(recipe, write=False, train_teacher=False)
    try:
        description = describe(training)
    finally:
        training.close()
    if arguments.json:
        print(json.dumps(description, indent=2))
    else:
        render(description, Console())
    return 0


def _plugins(arguments: argparse.Namespace) -> int:
    from stillhouse.registry import installed, load

    rows = []
    for found in installed():
        row = {
            "use": found.use,
            "distribution": found.distribution,
            "version": found.version,
            "target": found.target,
            "summary": found.summary,
        }
        if arguments.check:
            try:
                load(found.use)
                row["status"] = "ok"
            except StillhouseError as error:
                row["status"] = "; ".join(fault.what for fault in error.faults)
        rows.append(row)
    broken = [row for row in rows if row.get("status", "ok") != "ok"]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 1 if broken else 0
    console = Console()
    if not rows:
        console.print("no plugins are installed: pip install stillhouse-features stillhouse-projector ...")
        return 0
    table = Table(
        "plugin",
        "distribution",
        "version",
        "what it does",
        *(["status"] if arguments.check else []),
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for row in rows:
        cells = [row["use"], row["distribution"], row["version"], row["summary"]]
        if arguments.check:
            cells.append("broken" if row in broken else "ok")
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    for row in broken:
        console.print(Text(f"{row['distribution']} {row['version']}: {row['status']}"), soft_wrap=True)
    return 1 if broken else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 1 where ``plugins --check`` finds a broken one, 2 for bad input, 130 after an interruption."""
    parsed = _parser().parse_args(arguments)
    errors = Console(stderr=True)
    with warnings.catch_warnings():
        warnings.simplefilter("default", StillhouseWarning)
        shown = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, StillhouseWarning):
                errors.print(Text(f"warning: {message}", style="yellow"), soft_wrap=True)
            else:
                shown(message, category, *rest, **more)

        warnings.showwarning = show
        try:
            return int(parsed.function(parsed))
        except StillhouseError as error:
            for fault in error.faults:
                errors.print(Text.assemble(("error: ", "bold red"), str(fault)), soft_wrap=True)
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


if __name__ == "__main__":
    sys.exit(main())
