"""``stillhouse train``: trains a recipe."""

from __future__ import annotations

import argparse
import json
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from rich.text import Text

from stillhouse.cli.common import Commands, add_quiet, add_recipe, importing, load_recipe_of, make_console
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.files import to_json
from stillhouse.terminal import make_table

if TYPE_CHECKING:
    from stillhouse.training.profiler import Profiler

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    train = commands.add_parser("train", help="train a recipe's student")
    add_recipe(train)
    train.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/NAME)")
    train.add_argument("--resume", action="store_true", help="go on in a folder that exists")
    train.add_argument(
        "--extend", metavar="RUN", help="go on where this run has ended, in a folder of its own: --epochs 40 --out DIR"
    )
    shown = train.add_mutually_exclusive_group()
    add_quiet(shown)
    shown.add_argument("-v", "--verbose", action="store_true", help="show each epoch with its losses and metrics")
    train.add_argument(
        "--debug",
        action="store_true",
        help="look at every step, several times slower: the first tensor that is not finite is named by layer and plugin",
    )
    train.add_argument(
        "--profile",
        metavar="STEPS",
        type=int,
        help="profile so many steps: a trace for Perfetto, and where the time goes",
    )
    train.add_argument("--json", action="store_true", help="print the summary as JSON")
    train.set_defaults(function=_train)


def _train(arguments: argparse.Namespace) -> int:
    with importing():
        from stillhouse.distributed import processes as parallel
        from stillhouse.training.debugging import fit_watched
        from stillhouse.training.preparation import prepare
        from stillhouse.training.progress import Detail

    if arguments.extend is not None:
        arguments.overrides.append(f"run.parent={json.dumps(str(Path(arguments.extend).resolve()))}")
    recipe = load_recipe_of(arguments)
    folder = Path(arguments.out or Path("runs") / recipe.run.name)
    if arguments.resume and not folder.exists():
        warnings.warn(f"{folder}: no run to resume, a new one begins", StillhouseWarning, stacklevel=1)
    progress: Detail = "verbose" if arguments.verbose else not arguments.quiet
    if arguments.profile is not None:
        recipe = attrs.evolve(recipe, watch=attrs.evolve(recipe.watch, enabled=False))
    training = prepare(recipe, out=arguments.out, resume=arguments.resume, progress=progress)
    profiler = None
    if arguments.profile is not None:
        from stillhouse.training.profiler import Profiler

        try:
            profiler = Profiler(training, arguments.profile)
        except StillhouseError:
            training.close()
            raise
    result = fit_watched(training) if arguments.debug else training.fit()
    if not parallel.is_first():
        return 0
    if arguments.json:
        print(to_json({**result.summary, "folder": str(result.folder)}))
        return 0
    _print_summary(result.summary, str(result.folder))
    if profiler is not None:
        _print_profile(profiler)
    return 0


def _print_profile(profiler: Profiler) -> None:
    console, items = make_console(), profiler.items()
    if not items:
        console.print("profile      none: the run ended before its steps were done", highlight=False)
        return
    table = make_table("of a step", "ms", "%")
    for item in items:
        table.add_row(item.name, f"{item.ms:.3f}", f"{100 * item.share:.1f}")
    console.print(table)
    console.print(
        f"most of it   {items[0].name}: {profiler.advise(items[0])}", highlight=False, markup=False, soft_wrap=True
    )
    where = f"profile      {profiler.path}, for https://ui.perfetto.dev"
    console.print(where, highlight=False, markup=False, soft_wrap=True)


def _print_summary(summary: dict[str, Any], folder: str) -> None:
    console = make_console()
    plugins = ", ".join(summary["plugins"]) or "no plugins"
    console.print(Text.assemble((summary["name"], "bold"), f"  {plugins}  ({summary['seconds']:.1f} s)"))
    splits = list(summary["metrics"])
    if splits:
        table = make_table("metric", *splits)
        for name in dict.fromkeys(n for values in summary["metrics"].values() for n in values):
            table.add_row(name, *(_format_number(summary["metrics"][s].get(name)) for s in splits))
        console.print(table)
    if summary.get("best"):
        (score, value), epoch = (
            next((k, v) for k, v in summary["best"].items() if k != "epoch"),
            summary["best"]["epoch"],
        )
        console.print(f"best {score} {value:.4f} in epoch {epoch}", highlight=False, markup=False)
    nonfinite = [f"{s}/{name}" for s in splits for name, value in summary["metrics"][s].items() if value is None]
    if nonfinite:
        console.print(f"not finite   {', '.join(nonfinite)}", highlight=False, markup=False, soft_wrap=True)
    stopped = summary.get("stopped")
    if stopped:
        when = f"stopped early, after epoch {stopped['epoch']} of {summary['epochs']}: {stopped['reason']}"
        console.print(when, highlight=False, markup=False, soft_wrap=True)
    console.print(f"run folder   {folder}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"TensorBoard  stillhouse monitor {shlex.quote(str(folder))}", highlight=False, markup=False, soft_wrap=True
    )


def _format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
