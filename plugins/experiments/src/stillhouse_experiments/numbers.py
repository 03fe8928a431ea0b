"""An experiment's numbers, ``results/NAME.json``, read back: its page's tables are written anew without a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import attrs

from stillhouse import StillhouseError
from stillhouse.experiments.choice import Choice
from stillhouse.experiments.comparison import Comparison, Group
from stillhouse_experiments.experiment import Experiment, read
from stillhouse_experiments.home import Home
from stillhouse_experiments.page import PICTURE, arranged, ends_of_arms, table_lines

__all__ = ["Numbers", "read_ends", "read_numbers", "rewrite"]

_TABLES = re.compile(r"(?:^Chosen before, |^`[a-z]+/[^`]+`$).*?(?=^!\[" + PICTURE + r"\]|\Z)", re.DOTALL | re.MULTILINE)
"""In a page: all between what the runs were and their picture."""


@attrs.frozen
class Numbers:
    """What an experiment has found.

    Attributes:
        comparison: its table.
        choices: the values chosen before.
    """

    comparison: Comparison
    choices: list[Choice]


def read_numbers(path: Path, experiment: Experiment) -> Numbers:
    """The numbers in a file, arranged as the experiment's plan says.

    Raises:
        StillhouseError: the file cannot be read, or is none of such numbers.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        choices = [Choice.of(table) for table in told["chosen"]]
        groups = [
            Group(
                group["name"],
                dict(zip(group["seeds"], group["values"], strict=True)),
                note=group["note"],
                failed={int(seed): error for seed, error in group.get("failed", {}).items()},
            )
            for group in told["groups"]
        ]
        missing = told["missing"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"must be the numbers of an experiment: {error}"
        raise StillhouseError(what, where=str(path), hint="stillhouse experiment writes them") from None
    return Numbers(arranged(experiment, groups, choices, missing, told.get("mixed", [])), choices)


def read_ends(plan: Path, numbers: Path) -> dict[str, list[str]]:
    """The keys of each arm of a plan that were chosen at the end of what was tried, after its numbers.

    Raises:
        StillhouseError: the plan or the numbers cannot be read.
    """
    experiment = read(plan, Path("runs"))
    return ends_of_arms(experiment, read_numbers(numbers, experiment).choices)


def rewrite(home: Home, experiment: Experiment) -> None:
    """Write the tables of an experiment's page anew from its numbers.

    Raises:
        StillhouseError: there are no numbers.
    """
    numbers = read_numbers(home.folder / "results" / f"{experiment.name}.json", experiment)
    text = "\n".join(table_lines(experiment, numbers.comparison, numbers.choices))
    before = home.get(experiment.name)
    home.put(experiment.name, _TABLES.sub(lambda _: f"{text}\n", before, count=1).strip("\n"))
