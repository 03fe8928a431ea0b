"""The committed pages: every plan has one, its tables are those of its numbers, its commands are ones."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from stillhouse.experiments.comparison import Group, compare_groups
from stillhouse.experiments.tables import to_markdown
from stillhouse_experiments import command, page
from stillhouse_experiments.choices import Choice
from stillhouse_experiments.experiment import Experiment, read

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "experiments"
NUMBERS = [path for path in sorted((COMMITTED / "results").glob("*.json")) if "groups" in json.loads(path.read_text())]


@cache
def planned(name: str) -> Experiment:
    return read(COMMITTED / "plans" / f"{name}.toml", Path("out"))


@pytest.mark.parametrize("name", [path.stem for path in sorted((COMMITTED / "plans").glob("*.toml"))])
def test_every_experiments_arms_are_different_runs_and_have_a_page(name: str):
    experiment = planned(name)
    names = [arm.name for arm in experiment.plan.arms]
    assert {experiment.reference_of(arm) for arm in experiment.plan.arms} <= set(names)
    assert len(names) == len(set(names)) > 1
    assert len(experiment.plan.seeds) >= 5
    pages = [page.read_text(encoding="utf-8") for page in COMMITTED.glob("*.md")]
    assert sum(f"<!-- results: {name} -->" in page for page in pages) == 1


@pytest.mark.parametrize("path", NUMBERS, ids=lambda path: path.stem)
def test_the_tables_of_the_pages_are_those_of_their_numbers(path: Path):
    numbers = json.loads(path.read_text(encoding="utf-8"))
    groups = [
        Group(
            group["name"],
            dict(zip(group["seeds"], group["values"], strict=True)),
            against=group["against"],
            note=group["note"],
        )
        for group in numbers["groups"]
    ]
    comparison = compare_groups(numbers["metric"], groups, (), numbers["missing"])
    experiment = planned(path.stem)
    assert [group["name"] for group in numbers["groups"]] == list(experiment.order)
    chosen = [Choice(**{**table, "seeds": tuple(table["seeds"])}) for table in numbers["chosen"]]
    text = "\n".join(page.read_text(encoding="utf-8") for page in COMMITTED.glob("*.md"))
    part = text.partition(f"<!-- results: {path.stem} -->")[2].partition("<!-- end -->")[0]
    assert to_markdown(comparison) in part
    assert "\n".join(page.pair_lines(page.compared_pairs(experiment, comparison))) in part
    assert "\n".join(page.choice_lines(chosen)) in part


def test_every_command_on_the_pages_is_one_of_a_plan_that_is_there():
    parser = argparse.ArgumentParser(prog="stillhouse")
    command.add(parser.add_subparsers())
    found = set()
    for path in (*COMMITTED.glob("*.md"), ROOT / "plugins/experiments/README.md"):
        text = path.read_text(encoding="utf-8")
        assert "docs/experiments/run.py" not in text
        for line in re.findall(r"`stillhouse (experiment [^`]+)`|^stillhouse (experiment [^#\n]+)", text, re.MULTILINE):
            words = shlex.split(line[0] or line[1])
            if any(word.isupper() for word in words):
                continue  # a pattern, not a command
            arguments = parser.parse_args(words)
            for plan in arguments.plans:
                assert (COMMITTED / "plans" / f"{plan}.toml").exists(), f"{path}: {plan}"
                found.add(plan)
    assert {path.stem for path in NUMBERS} <= found
