"""The committed pages: every plan has one, its tables are those of its numbers, its commands are ones."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from stillhouse import StillhouseError
from stillhouse_experiments import command, page
from stillhouse_experiments.experiment import Experiment, read
from stillhouse_experiments.home import Home
from stillhouse_experiments.numbers import read_ends, read_numbers
from stillhouse_experiments.sentences import qualify

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "experiments"
MARKED = re.compile(r"<!-- ends of (.+?) -->")
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
    experiment = planned(path.stem)
    numbers = read_numbers(path, experiment)
    assert [row.group.name for row in numbers.comparison.rows] == list(experiment.order)
    part = Home(COMMITTED, COMMITTED).get(path.stem)
    told = "\n".join(page.table_lines(experiment, numbers.comparison, numbers.choices)).strip()
    assert told in part, f"stillhouse experiment {path.stem} --rewrite"


def test_findings_say_how_many_of_their_arms_have_a_value_at_the_end_of_what_was_tried():
    home = Home(COMMITTED, COMMITTED)
    findings = re.findall(r"^\d+\. .+$", (COMMITTED / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(findings) == 10
    for finding in findings:
        assert re.search(r"<!-- ends of .+? -->", finding), finding
        assert qualify(home, finding) == finding, "stillhouse experiment PLAN --rewrite"
    known = read_ends(home.plan("vkd-digits"), COMMITTED / "results" / "vkd-digits.json")
    said = "the highest of those that were tried" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert said is bool(known["linear, layer norm"] and known["logits"])


def test_what_is_said_of_arms_at_the_end_of_what_was_tried_has_marks_that_are_those_of_the_numbers():
    home = Home(COMMITTED, COMMITTED)
    pages = [page.read_text(encoding="utf-8") for page in COMMITTED.glob("*.md")]
    for text in pages:
        assert qualify(home, text) == text, "stillhouse experiment --rewrite"
    named = {part.partition(":")[0].strip() for text in pages for part in ";".join(MARKED.findall(text)).split(";")}
    for path in NUMBERS:
        if any(read_ends(home.plan(path.stem), path).values()):
            assert path.stem in named, f"no statement on {path.stem} is marked"


def test_an_arm_of_a_mark_may_be_a_pattern_and_one_that_no_arm_matches_is_refused():
    home = Home(COMMITTED, COMMITTED)
    one, all_of_them = (
        f"<!-- ends of tcs-shots: {arms} --><!-- end -->" for arms in ("1 a class: TCS, pool", "* TCS, pool")
    )
    assert qualify(home, one).endswith("--> (†: 1 of 1 arms)<!-- end -->")
    assert " of 5 arms)" in qualify(home, all_of_them)
    with pytest.raises(StillhouseError, match="unknown arm '3 a class"):
        qualify(home, "<!-- ends of tcs-shots: 3 a class* --><!-- end -->")


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
