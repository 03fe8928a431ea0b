"""``stillhouse experiment``: plans of many arms, their figures, the full tier and its packs.

torch is imported when the command runs.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse_experiments.figures import FIGURES

if TYPE_CHECKING:
    from stillhouse_experiments.experiment import Experiment
    from stillhouse_experiments.figures.figure import Request
    from stillhouse_experiments.home import Home
    from stillhouse_experiments.tier import TierEntry

__all__ = ["add"]

DATASETS = "~/datasets"
JOBS = 2
MINUTES = 7.5
"""Of the full tier: a call of a machine that is lent for ten."""


def add(commands: Any) -> None:
    """Add the command."""
    experiment = commands.add_parser(
        "experiment", help="run plans of many arms under paired seeds, and write their tables and figures into pages"
    )
    experiment.add_argument(
        "plans", nargs="*", metavar="PLAN", help="a plan of docs/experiments by name, or a file PLAN.toml; none: all"
    )
    experiment.add_argument(
        "--tier", choices=("small", "full"), default="small", help="full: as full.toml changes the plans, on a GPU"
    )
    experiment.add_argument(
        "--jobs", type=int, metavar="J", help=f"runs at a time (default: {JOBS}; full: as full.toml says)"
    )
    experiment.add_argument("--seeds", type=int, metavar="N", help="so many seeds instead of the plan's")
    experiment.add_argument(
        "--minutes", type=float, metavar="M", help=f"begin no run after so many (default: no limit; full: {MINUTES:g})"
    )
    experiment.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe"
    )
    experiment.add_argument("--data", type=Path, metavar="DIR", help=f"where the data sets are, if not in {DATASETS}")
    experiment.add_argument(
        "--out",
        type=Path,
        default=Path("runs") / "experiments",
        metavar="DIR",
        help="of runs (default: runs/experiments)",
    )
    experiment.add_argument(
        "--folder", type=Path, metavar="DIR", help="of plans, pages and results (default: docs/experiments)"
    )
    experiment.add_argument("--pages", type=Path, metavar="DIR", help="write pages and results here instead")
    what = experiment.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="list the plans, or the tier and write its page; run nothing")
    what.add_argument(
        "--rewrite", action="store_true", help="write the pages' tables anew from the numbers; run nothing"
    )
    what.add_argument("--figure", choices=FIGURES, metavar="NAME", help=f"draw this alone: {', '.join(FIGURES)}")
    what.add_argument("--pack", type=Path, metavar="FILE", help="pack the files that PLAN reads in the full tier")
    what.add_argument("--unpack", type=Path, metavar="FILE", help="unpack such a pack where the data sets are")
    experiment.set_defaults(function=_experiment)


def _experiment(arguments: argparse.Namespace) -> int:
    _check(arguments)
    if arguments.unpack is not None:
        return _unpack(arguments)
    if arguments.pack is not None:
        return _pack(arguments)
    if arguments.figure is not None:
        return _figure(arguments)
    try:
        return _full(arguments) if arguments.tier == "full" else _small(arguments)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


def _check(arguments: argparse.Namespace) -> None:
    """Refuse counts below 1 and names where there is room for one or none."""
    counts = {"--jobs": arguments.jobs, "--seeds": arguments.seeds}
    faults = [
        Fault(key, f"must be >= 1, got {value}") for key, value in counts.items() if value is not None and value < 1
    ]
    if arguments.minutes is not None and not 0 <= arguments.minutes < math.inf:
        faults.append(Fault("--minutes", f"must be finite and >= 0, got {arguments.minutes:g}"))
    number = len(arguments.plans)
    if arguments.pack is not None and number != 1:
        faults.append(Fault("--pack", f"packs the files of one plan, got {number}"))
    if arguments.figure is not None and number > 1:
        faults.append(Fault("--figure", f"is of one plan, got {number}"))
    if arguments.unpack is not None and number:
        faults.append(Fault("--unpack", f"takes no plan, got {arguments.plans[0]!r}"))
    raise_faults(faults)


def _small(arguments: argparse.Namespace) -> int:
    from stillhouse_experiments.home import Home, find_home, locate

    plans = arguments.plans or find_home(arguments.folder, arguments.pages).names()
    if arguments.list:
        print("\n".join(plans))
        return 0

    from stillhouse_experiments.experiment import read
    from stillhouse_experiments.numbers import rewrite
    from stillhouse_experiments.runner import Limits, run
    from stillhouse_experiments.sentences import qualify

    _one_thread()
    limits, code, rewritten = Limits.of(arguments.jobs or JOBS, arguments.minutes), 0, set[Home]()
    for plan in plans:
        try:
            path, home = locate(plan, arguments.folder, arguments.pages)
            experiment = _with_data(read(path, arguments.out, arguments.seeds, arguments.overrides), arguments)
            if arguments.rewrite:
                rewrite(home, experiment)
                rewritten.add(home)
                continue
            command = _command(arguments, plan, f"--jobs {limits.jobs}")
            code = max(code, run(home, experiment, limits, command, _request(arguments, home, path)))
        except StillhouseError as error:
            code = _failed(plan, error)
    for home in rewritten:
        home.change(partial(qualify, home))
    return code


def _full(arguments: argparse.Namespace) -> int:
    from stillhouse_experiments.home import find_home
    from stillhouse_experiments.tier import picked, table

    home = find_home(arguments.folder, arguments.pages)
    entries = picked(home, arguments.plans)
    if arguments.list:
        home.put("full-tier", table(home))
        print(table(home))
        return 0

    from stillhouse_experiments.runner import Limits, run_full

    _one_thread()
    begun, code = Limits.of(1, MINUTES if arguments.minutes is None else arguments.minutes), 0
    for entry in entries:
        try:
            limits = Limits(arguments.jobs or entry.jobs, begun.until)
            experiment = _entry(entry, home, arguments)
            command = _command(
                arguments, entry.name, "--tier full", f"--jobs {arguments.jobs}" if arguments.jobs else ""
            )
            numbers = home.folder / "results" / f"{entry.name}.json"
            request = _request(arguments, home, home.plan(entry.name))
            code = max(code, run_full(home, experiment, limits, command, numbers, request))
        except StillhouseError as error:
            code = _failed(entry.name, error)
    return code


def _figure(arguments: argparse.Namespace) -> int:
    from stillhouse_experiments.figures.figure import draw
    from stillhouse_experiments.home import find_home, locate

    _one_thread()
    if arguments.plans:
        path, home = locate(arguments.plans[0], arguments.folder, arguments.pages)
        return draw(arguments.figure, _request(arguments, home, path))
    return draw(arguments.figure, _request(arguments, find_home(arguments.folder, arguments.pages), None))


def _pack(arguments: argparse.Namespace) -> int:
    from stillhouse_experiments.home import find_home
    from stillhouse_experiments.pack import files_read, pack
    from stillhouse_experiments.tier import picked

    home, root = find_home(arguments.folder, arguments.pages), _root(arguments)
    (entry,) = picked(home, arguments.plans)
    arguments.data = root
    size = pack(home, entry, files_read(_entry(entry, home, arguments), root), root, arguments.pack)
    print(f"{arguments.pack}: {size / 2**20:.1f} MiB")
    return 0


def _unpack(arguments: argparse.Namespace) -> int:
    from stillhouse_experiments.pack import unpack

    root = _root(arguments)
    whole, empty = unpack(arguments.unpack, root)
    print(f"{root}: {whole} files, and {empty} by name alone")
    return 0


def _root(arguments: argparse.Namespace) -> Path:
    root: Path = arguments.data or Path(DATASETS)
    return root.expanduser().resolve()


def _entry(entry: TierEntry, home: Home, arguments: argparse.Namespace) -> Experiment:
    return _with_data(entry.experiment(home, arguments.out, arguments.seeds, arguments.overrides), arguments)


def _with_data(experiment: Experiment, arguments: argparse.Namespace) -> Experiment:
    return experiment if arguments.data is None else experiment.with_data(_root(arguments))


def _request(arguments: argparse.Namespace, home: Home, plan: Path | None) -> Request:
    from stillhouse_experiments.figures.figure import Request

    data = None if arguments.data is None else _root(arguments)
    return Request(home, plan, arguments.out, arguments.seeds, tuple(arguments.overrides), data)


def _command(arguments: argparse.Namespace, plan: str, *options: str) -> str:
    """The command that makes a table, for its page."""
    words = ["stillhouse experiment", plan, *filter(None, options)]
    words += [f"--seeds {arguments.seeds}"] if arguments.seeds else []
    return " ".join([*words, *(f"--set {shlex.quote(override)}" for override in arguments.overrides)])


def _failed(plan: str, error: StillhouseError) -> int:
    """Say what is wrong with one of the plans; the others are run."""
    for fault in error.faults:
        print(f"error: {plan}: {fault}", file=sys.stderr)
    return error.exit_code


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
