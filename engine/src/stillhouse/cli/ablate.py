"""``stillhouse ablate``: trains a recipe with plugins left out, alone and varied, under paired seeds."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from rich.text import Text

from stillhouse.cli.common import Commands, add_quiet, add_recipe, importing, load_recipe_of, make_console
from stillhouse.errors import StillhouseError
from stillhouse.files import to_json
from stillhouse.terminal import Terminal, printable

if TYPE_CHECKING:
    from stillhouse.experiments.comparison import Comparison

__all__ = ["add", "print_comparison", "print_missing"]

_ASKED = ("seeds", "leave_one_out", "one_at_a_time", "grid", "factorial", "out")
_HOW = ("figures", "mixed")
_SEEN = ("jobs", "metric", "sd")


def add(commands: Commands) -> None:
    """Add the command."""
    ablate = commands.add_parser("ablate", help="what each plugin adds: many runs under paired seeds, and their table")
    add_recipe(ablate)
    ablate.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="seeds for each arm, from run.seed on (default: 5)"
    )
    ablate.add_argument("--leave-one-out", action="store_true", help="an arm without each plugin")
    ablate.add_argument(
        "--one-at-a-time",
        action="store_true",
        help="an arm with each plugin alone (default: both kinds of arms, where no grid is given either)",
    )
    ablate.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=V1,V2",
        help="an arm for each combination: --grid projector.kind=linear,orthogonal spectral.rank=1,2",
    )
    ablate.add_argument(
        "--factorial",
        nargs="+",
        action="extend",
        default=[],
        metavar="PLUGIN",
        help="an arm for each combination of these being there or not, and their effects; + joins what belongs together",
    )
    ablate.add_argument(
        "--tune",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=V1,V2",
        help="each arm chooses for itself before, on the validation split: --tune optimizer.lr=1e-3,3e-3,1e-2 logits.weight=0.1,1,10",
    )
    ablate.add_argument(
        "--tune-seeds", type=int, default=2, metavar="N", help="seeds to choose by, none of them reported (default: 2)"
    )
    ablate.add_argument(
        "--widen",
        type=int,
        default=3,
        metavar="N",
        help="values by which a grid of --tune may go on where the best is at its end (default: 3)",
    )
    ablate.add_argument(
        "--halving",
        action="store_true",
        help="stop arms that are hopeless in short runs, before the others are trained",
    )
    ablate.add_argument(
        "--halving-seeds",
        type=int,
        default=2,
        metavar="N",
        help="seeds of --halving, none of them reported (default: 2)",
    )
    ablate.add_argument("--jobs", type=int, default=1, metavar="J", help="runs at a time, one thread each (default: 1)")
    ablate.add_argument(
        "--out", metavar="DIR", help="the folder; what it has finished is kept (default: runs/NAME-ablation)"
    )
    ablate.add_argument(
        "--sd",
        type=float,
        metavar="X",
        help="the spread expected of paired differences: what so many seeds can find is said before they run (default: 0.01)",
    )
    ablate.add_argument("--metric", metavar="SPLIT/NAME", help="what the table compares (default: the task's score)")
    ablate.add_argument(
        "--figures", action="store_true", help="let runs draw pictures, which takes longer than short runs do"
    )
    ablate.add_argument(
        "--mixed",
        action="store_true",
        help="keep finished runs of other data, weights, code or versions in the table, marked",
    )
    ablate.add_argument("--list", action="store_true", help="print the runs, one JSON object a line, and train none")
    ablate.add_argument("--only", type=int, metavar="INDEX", help="train this run of the list alone")
    add_quiet(ablate)
    ablate.add_argument("--json", action="store_true", help="print the table as JSON")
    ablate.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    ablate.set_defaults(function=_ablate)


def _ablate(arguments: argparse.Namespace) -> int:
    recipe = load_recipe_of(arguments)
    if arguments.tune and (arguments.list or arguments.only is not None):
        raise StillhouseError(
            "runs are known when the values are chosen", where="--tune", hint="leave out --list and --only"
        )
    if arguments.halving and (arguments.list or arguments.only is not None):
        raise StillhouseError(
            "which arms run is known when the others are stopped", where="--halving", hint="leave out --list and --only"
        )
    asked = {name: getattr(arguments, name) for name in _ASKED}
    if arguments.list:
        from stillhouse.experiments.listing import list_runs

        for run in list_runs(recipe, **asked):
            print(to_json(attrs.asdict(run), indent=None))
        return 0
    with importing():
        from stillhouse.experiments.ablation import ablate, make_plan, run_plan
        from stillhouse.experiments.halving import Halving
        from stillhouse.experiments.tuning import Tuning

    how = {name: getattr(arguments, name) for name in _HOW}
    if arguments.only is not None:
        plan, _ = make_plan(recipe, **asked, **how)
        return 2 if run_plan(plan, progress=not arguments.quiet, only=[arguments.only]) else 0
    seen: dict[str, Any] = {name: getattr(arguments, name) for name in _SEEN}
    if arguments.tune:
        seen["tune"] = Tuning(tuple(arguments.tune), arguments.tune_seeds, arguments.widen)
    if arguments.halving:
        seen["halving"] = Halving(arguments.halving_seeds)
    found = ablate(recipe, **asked, **how, **seen, progress=not arguments.quiet, command=arguments.typed)
    folder = arguments.out or f"runs/{recipe.run.name}-ablation"
    print_comparison(found, as_json=arguments.json, as_markdown=arguments.markdown)
    if not (arguments.json or arguments.markdown):
        console = Terminal()
        console.print(f"runs and table  {folder}", highlight=False, markup=False, soft_wrap=True)
        if (report := Path(folder) / "report.html").exists():
            console.print(f"report          {report}", highlight=False, markup=False, soft_wrap=True)
        console.print(
            f"TensorBoard     stillhouse monitor {shlex.quote(str(folder))}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    print_missing(found)
    return 2 if found.missing else 0


def print_missing(comparison: Comparison) -> None:
    """Name the runs without a result on standard error."""
    errors = Terminal(file=sys.stderr)
    for item in comparison.missing:
        text = f"{item['arm']}, seed {item['seed']}: {item['error']}"
        errors.print(Text.assemble(("missing: ", "bold red"), text), soft_wrap=True)


def print_comparison(comparison: Comparison, *, as_json: bool, as_markdown: bool) -> None:
    """Print the table as text, JSON or Markdown."""
    from stillhouse.experiments.effects_table import effects_markdown, show_effects, to_plain
    from stillhouse.experiments.tables import show, to_markdown

    if as_json:
        print(to_json(to_plain(comparison)))
    elif as_markdown:
        print(printable(to_markdown(comparison) + effects_markdown(comparison)), end="")
    else:
        show(comparison, make_console())
        show_effects(comparison, make_console())
