"""Run experiments and write their tables and plots: ``python docs/experiments/run.py cross-depth-tuned --jobs 2``.

An experiment is a file in ``plans/`` (``_plan.py`` says what stands in it). What it leaves open is chosen first, on the
validation split and on seeds that are not reported. Runs go to ``runs/experiments`` (``--out``) and are not repeated when
they are there; tables go into the page that has a place for them, plots and numbers to ``results/``. A plan may name scripts that come
``after``: they measure more in the same runs and write that beside.

``--tier full`` runs the plans as ``full.toml`` changes them, on a GPU, in its order. No run is begun when ``--minutes`` are
over; the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import attrs
import torch
from _full import picked, table
from _page import HERE, compared, into_pages, write
from _plan import PLANS, Experiment, read
from _teacher import make_axes
from _tuning import Choice, UnfinishedError, taken, tuned

from stillhouse import StillhouseError
from stillhouse.experiments.ablation import run_plan
from stillhouse.experiments.plan import Plan


def main(argv: list[str] | None = None) -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments; none: all of them")
    parser.add_argument("--tier", choices=("small", "full"), default="small", help="full: as full.toml says, on a GPU")
    parser.add_argument("--minutes", type=float, help="begin no run after so many (full: 7.5, or else no limit)")
    parser.add_argument("--jobs", type=int, help="runs at a time (full: as full.toml says, or else 2)")
    parser.add_argument("--seeds", type=int, help="instead of the plan's")
    parser.add_argument("--out", type=Path, default=Path("runs") / "experiments", help="where the runs go")
    parser.add_argument("--data", type=Path, metavar="DIR", help="full: where the data sets lie, if not in ~/datasets")
    parser.add_argument("--pages", type=Path, default=HERE, metavar="DIR", help="where pages and results/ are")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--list", action="store_true", help="list the experiments")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        return _full(arguments) if arguments.tier == "full" else _small(arguments)
    except StillhouseError as error:
        return _told(error, "")


def _small(arguments: argparse.Namespace) -> int:
    names = arguments.names or sorted(p.stem for p in PLANS.glob("*.toml"))
    if arguments.list:
        print("\n".join(names))
        return 0
    until, jobs, code = _until(arguments.minutes), arguments.jobs or 2, 0
    for name in names:
        try:
            experiment = read(name, arguments.out, arguments.seeds, arguments.overrides)
            code = max(code, _run(experiment, jobs, until, arguments, f"{name} --jobs {jobs}"))
        except StillhouseError as error:
            code = _told(error, name)
    return code


def _full(arguments: argparse.Namespace) -> int:
    entries = picked(arguments.names)
    if arguments.list:
        into_pages("full-tier", table(), arguments.pages)
        print(table())
        return 0
    minutes = 7.5 if arguments.minutes is None else arguments.minutes
    until, code = _until(minutes), 0
    for entry in entries:
        try:
            experiment = entry.experiment(arguments.out, arguments.seeds, arguments.overrides, arguments.data)
            jobs = arguments.jobs or entry.jobs
            found = taken(experiment, HERE / "results" / f"{entry.name}.json")
            command = f"--tier full {entry.name}" + (f" --jobs {jobs}" if arguments.jobs else "")
            code = max(code, _run(experiment, jobs, until, arguments, command, found))
        except StillhouseError as error:
            code = _told(error, entry.name)
    return code


def _run(
    experiment: Experiment,
    jobs: int,
    until: float | None,
    arguments: argparse.Namespace,
    command: str,
    found: tuple[Experiment, list[Choice]] | None = None,
) -> int:
    """Train what is missing until time is over, and write what there is."""
    choices: list[Choice] = []
    tuning: list[Plan] = []
    note = ""
    clock = _Clock(experiment.plan.folder)
    make_axes(experiment)
    if found is not None:
        experiment, choices = found
        note = "What was open is as the small tier chose it."
    else:
        try:
            experiment, choices, tuning = tuned(experiment, jobs=jobs, until=until)
        except UnfinishedError:
            _left(experiment, "values are still being chosen", arguments.pages)
            clock.minutes()
            return 0
    failed = run_plan(experiment.plan, jobs=jobs, progress=True, until=until)
    for index, error in failed.items():
        print(f"run {index}: {error}", file=sys.stderr)
    code = 2 if failed else 0
    runs = experiment.plan.runs()
    missing = {run.seed for run in runs if run.summary() is None and run.index not in failed}
    if missing:
        # Whole seeds alone: an arm that has fewer than its reference would be compared on other pairs.
        whole = tuple(seed for seed in experiment.plan.seeds if seed not in missing)
        done = sum(run.summary() is not None for run in runs)
        _left(experiment, f"{done} of {len(runs)} runs are finished", arguments.pages if len(whole) < 2 else None)
        if len(whole) < 2:
            clock.minutes()
            return code
        note = f"{note} Not finished yet: {len(experiment.plan.seeds)} seeds are planned.".strip()
        experiment = attrs.evolve(experiment, plan=attrs.evolve(experiment.plan, seeds=whole))
        failed = {}  # their numbers are those of the whole plan; the next call tries them again
    command += f" --seeds {arguments.seeds}" if arguments.seeds else ""
    command = f"python docs/experiments/run.py {command}" + "".join(f" --set '{o}'" for o in arguments.overrides)
    comparison = compared(experiment, failed)
    tell = partial(write, experiment, comparison, choices, tuning, jobs, command, note=note, to=arguments.pages)
    text = tell()
    if (
        arguments.tier == "small" and arguments.pages == HERE and not missing and not code
    ):  # what follows writes there alone, and may read the numbers
        code = _after(experiment, arguments.out)
    if (minutes := clock.minutes()) is not None:
        text = tell(minutes=minutes)
    print(text)
    return code


class _Clock:
    """How long an experiment takes, over all the calls that it was trained in.

    Args:
        folder: of its runs, beside that of the runs that choose values.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._begun, self._before = folder, time.monotonic(), self._runs(folder)

    def minutes(self) -> float | None:
        """With this call; None where some of the runs are from a call that was not timed."""
        file, runs = self._folder / "clock.json", self._runs(self._folder)
        told = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"runs": 0, "minutes": 0.0}
        if runs > self._before:
            spent = (time.monotonic() - self._begun) / 60
            told = {"runs": told["runs"] + runs - self._before, "minutes": told["minutes"] + spent}
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(told), encoding="utf-8")
        return told["minutes"] if told["runs"] == runs else None

    @staticmethod
    def _runs(folder: Path) -> int:
        return sum(1 for where in (folder, Path(f"{folder}-tuning")) for _ in where.rglob("summary.json"))


def _after(experiment: Experiment, out: Path) -> int:
    """Call what the plan has called when all runs are there."""
    code = 0
    for line in experiment.after:
        script, *options = shlex.split(line.replace("{out}", shlex.quote(str(out))))
        called = [sys.executable, str(HERE / script), *options]
        code = max(code, subprocess.run(called, check=False).returncode)  # noqa: S603 - a script beside this one
    return code


def _left(experiment: Experiment, what: str, pages: Path | None) -> None:
    """Say that time was over, and into its page too where there is no table yet."""
    print(f"{experiment.name}: time is over, and {what}; the same command goes on", file=sys.stderr)
    if pages is not None and not (pages / "results" / f"{experiment.name}.json").exists():
        into_pages(experiment.name, f"Not run to an end yet: {what}.", pages)


def _until(minutes: float | None) -> float | None:
    return None if minutes is None else time.monotonic() + 60 * minutes


def _told(error: StillhouseError, name: str) -> int:
    for fault in error.faults:
        print(f"error: {name}: {fault}" if name else f"error: {fault}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
