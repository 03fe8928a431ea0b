"""Run experiments and write their tables and plots: ``python docs/experiments/run.py cross-depth --jobs 2``.

An experiment is a file in ``plans/``: a recipe, the arms that change it, and the seeds. Runs go to ``runs/experiments``
(``--out``) and are not repeated when they are there; tables and plots go to ``results/``, beside this script.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import attrs
import matplotlib as mpl
import torch

from stillhouse import Recipe, StillhouseError
from stillhouse.errors import did_you_mean
from stillhouse.experiments.ablation import run_plan, table_of
from stillhouse.experiments.arms import Arm, identity, resolved
from stillhouse.experiments.comparison import Comparison
from stillhouse.experiments.plan import Plan
from stillhouse.experiments.statistics import paired_difference
from stillhouse.experiments.tables import to_markdown
from stillhouse.overrides import apply_override

mpl.use("agg")
HERE = Path(__file__).parent
PLANS = HERE / "plans"


@attrs.frozen
class Experiment:
    """One file of ``plans/``.

    Attributes:
        name: the file's stem.
        title: what the table is of.
        plan: arms and seeds.
        metric: ``SPLIT/NAME`` that is compared.
        reference: the arm that the others are compared with.
        pairs: further pairs of arms to compare, the second taken from the first.
    """

    name: str
    title: str
    plan: Plan
    metric: str
    reference: str
    pairs: tuple[tuple[str, str], ...] = ()


def read(name: str, out: Path, seeds: int | None, overrides: list[str]) -> Experiment:
    """The experiment of ``plans/NAME.toml``.

    Its keys: ``title``; ``recipe``, a file below ``plans/``; ``metric``; ``seeds``; ``reference``, an arm's name; ``pairs``, further pairs of
    arms; and ``[[arms]]``, each with a ``name`` and what it changes: ``set`` (as ``--set`` takes it), ``plugins`` (a list instead
    of the recipe's) and ``teacher`` (a table instead of the recipe's, or false).
    """
    path = PLANS / f"{name}.toml"
    if not path.exists():
        raise StillhouseError(
            f"there is no experiment {name!r}", hint=did_you_mean(name, [p.stem for p in PLANS.glob("*.toml")])
        )
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    base = Recipe.load(PLANS / tables["recipe"], overrides=[*tables.get("set", []), *overrides])
    arms = tuple(arm_of(base, table) for table in tables["arms"])
    seen: dict[str, str] = {}
    for arm in arms:
        other = seen.setdefault(identity(arm.recipe), arm.name)
        if other != arm.name:
            raise StillhouseError(f"the arms {other!r} and {arm.name!r} are the same run", where=str(path))
    numbers = tuple(range(base.run.seed, base.run.seed + (seeds or tables["seeds"])))
    pairs = tuple((first, second) for first, second in tables.get("pairs", []))
    plan = Plan(base, arms, numbers, out / name)
    return Experiment(name, tables["title"], plan, tables["metric"], tables["reference"], pairs)


def arm_of(base: Recipe, table: dict[str, Any]) -> Arm:
    """An arm: the recipe with one table's changes."""
    changed = base.to_dict()
    if "plugins" in table:
        changed["plugins"] = table["plugins"]
    teacher = table.get("teacher")
    if teacher is False:
        changed.pop("teacher", None)
    elif teacher is not None:
        changed["teacher"] = teacher
    for override in table.get("set", []):
        apply_override(changed, override)
    recipe = Recipe.from_dict(changed, base=base.base)
    if not recipe.plugins and "teacher" not in table:
        recipe = attrs.evolve(recipe, teacher=None)  # nobody would look at it
    return Arm(table["name"], "grid", resolved(recipe))


def compared(experiment: Experiment, failed: dict[int, str]) -> Comparison:
    """The table of all arms against the reference."""
    from stillhouse.experiments import comparison

    found = table_of(experiment.plan, metric=experiment.metric, failed=failed)
    groups = [
        attrs.evolve(row.group, columns={}, against={experiment.reference: experiment.reference}) for row in found.rows
    ]
    return comparison.compare_groups(experiment.metric, groups, (), found.missing)


def pair_lines(experiment: Experiment, comparison: Comparison) -> list[str]:
    """The plan's further pairs as a table; nothing where there are none."""
    values = {row.group.name: row.group.values for row in comparison.rows}
    lines = []
    for first, second in experiment.pairs:
        seeds = sorted(values[first].keys() & values[second].keys())
        if len(seeds) > 1:
            found = paired_difference([values[first][s] for s in seeds], [values[second][s] for s in seeds])
            lines.append(f"| {first} | {second} | {found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}] |")
    return ["| arm | less | paired [95%] |", "|---|---|---|", *lines, ""] if lines else []


def plot(experiment: Experiment, comparison: Comparison, path: Path) -> None:
    """Paired differences to the reference, with their intervals, one line an arm."""
    import matplotlib.pyplot as plt

    rows = [row for row in comparison.rows if row.differences.get(experiment.reference) is not None]
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(7, 0.7 + 0.36 * len(rows)), layout="constrained")
    for place, row in enumerate(reversed(rows)):
        found = row.differences[experiment.reference]
        assert found is not None
        for seed, value in row.group.values.items():
            other = next(r for r in comparison.rows if r.group.name == experiment.reference).group.values.get(seed)
            if other is not None:
                axes.plot(value - other, place, ".", color="0.7", markersize=4, zorder=1)
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [place, place], color="tab:green", linewidth=2, zorder=2)
        axes.plot(found.mean, place, "o", color="tab:green", markersize=6, zorder=3)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row.group.name for row in reversed(rows)])
    label = f"{experiment.metric} less {experiment.reference!r},\npaired by seed; mean and 95% interval"
    axes.set_xlabel(label, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def machine() -> str:
    """What ran."""
    sys.path.insert(0, str(HERE.parents[1] / "tests" / "benchmarks"))
    from _bench import machine as cpu

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, Python {sys.version.split()[0]}, torch {torch.__version__}"
    return cpu().replace("one thread used", "one thread a run")


def write(experiment: Experiment, comparison: Comparison, jobs: int, command: str) -> None:
    """The table into its page, its numbers as JSON, and the plot."""
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    seeds = experiment.plan.seeds
    spent = [run.summary() for run in experiment.plan.runs()]
    trained = sum(summary["seconds"] for summary in spent if summary is not None)
    lines = [
        f"### {experiment.title}",
        "",
        f"Command: `{command}`. Seeds {seeds[0]} to {seeds[-1]}. Machine: {machine()}. "
        f"{len([s for s in spent if s])} runs, {trained / 60:.1f} minutes of training in all, {jobs} at a time.",
        "",
        to_markdown(comparison),
        *pair_lines(experiment, comparison),
    ]
    into_pages(experiment.name, "\n".join(lines))
    (results / f"{experiment.name}.json").write_text(json.dumps(comparison.to_dict(), indent=1), encoding="utf-8")
    plot(experiment, comparison, results / f"{experiment.name}.png")
    print("\n".join(lines))


def into_pages(name: str, text: str) -> None:
    """Put a table and its plot where a page has ``<!-- results: NAME -->`` and ``<!-- end -->``."""
    block = re.compile(rf"(<!-- results: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    picture = f"![Differences by arm, paired by seed](results/{name}.png)"
    for page in HERE.glob("*.md"):
        before = page.read_text(encoding="utf-8")
        after = block.sub(lambda match: f"{match[1]}\n{text}\n\n{picture}\n\n{match[2]}", before)
        if after != before:
            page.write_text(after, encoding="utf-8")


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments; none: all of them")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--seeds", type=int, help="instead of the plan's")
    parser.add_argument("--out", type=Path, default=Path("runs") / "experiments", help="where the runs go")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--list", action="store_true", help="list the experiments")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = arguments.names or sorted(p.stem for p in PLANS.glob("*.toml"))
    if arguments.list:
        for name in names:
            print(name)
        return 0
    code = 0
    for name in names:
        try:
            experiment = read(name, arguments.out, arguments.seeds, arguments.overrides)
            failed = run_plan(experiment.plan, jobs=arguments.jobs, progress=True)
            for index, error in failed.items():
                print(f"run {index}: {error}", file=sys.stderr)
            command = f"python docs/experiments/run.py {name} --jobs {arguments.jobs}"
            command += f" --seeds {arguments.seeds}" if arguments.seeds else ""
            write(experiment, compared(experiment, failed), arguments.jobs, command)
            code = 2 if failed else code
        except StillhouseError as error:
            for fault in error.faults:
                print(f"error: {name}: {fault}", file=sys.stderr)
            code = 2
    return code


if __name__ == "__main__":
    sys.exit(main())
