"""Values chosen at the end of what was tried, as a page tells them: in rows, in a sentence, and behind the sentences that stand on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import FEATURES, tables
from support.experiments import LINEAR, TINY, make_home, save_plan

from stillhouse import StillhouseError
from stillhouse.cli import main
from stillhouse_experiments.home import Home

PLAN: dict[str, Any] = {
    **TINY,
    "pairs": [["low", "inside"]],
    "tuning": {"seeds": [90]},
    "arms": [
        {"name": "none", "plugins": []},
        {"name": "low", "plugins": [FEATURES, LINEAR], "tune": {"plugins.features.weight": [0.1, 1.0]}},
        {"name": "inside", "plugins": [FEATURES], "tune": {"plugins.features.weight": [0.1, 1.0]}},
    ],
}


def choice(arm: str, weight: float, *, shared: bool = False, key: str = "plugins.features.weight") -> dict[str, Any]:
    tried = [[{key: value}, 0.5] for value in (0.1, 1.0, 10.0)]
    return {
        "arm": arm,
        "shared": shared,
        "metric": "val/accuracy",
        "seeds": [90],
        "tried": tried,
        "chosen": {key: weight},
    }


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A page, and the numbers of a plan whose arm ``low`` took the lowest weight."""
    monkeypatch.chdir(tmp_path)
    made = make_home(tables())
    save_plan(made, PLAN)
    groups = [
        {"name": name, "seeds": [0, 1, 2], "values": values, "note": "", "against": {"none": "none"}}
        for name, values in {"none": [0.5, 0.6, 0.7], "low": [0.6, 0.65, 0.81], "inside": [0.5, 0.5, 0.9]}.items()
    ]
    told = {"groups": groups, "missing": [], "chosen": [choice("low", 0.1), choice("inside", 1.0)]}
    (made.results / "plan.json").write_text(json.dumps(told))
    (made.pages / "page.md").write_text(
        "1. It gains.<!-- ends of plan: low | inside --><!-- end -->\n2. It loses.<!-- ends of plan: inside --><!-- end -->\n"
        "<!-- results: plan -->\n\n### Tiny\n\nCommand: `it`.\n\n`test/accuracy`\n\nold\n\n"
        "![Differences by arm, paired by seed](results/plan.png)\n\n<!-- end -->\nafter\n"
    )
    return made


def rewritten(home: Home) -> str:
    assert main(["experiment", "plan", "--rewrite"]) == 0
    return (home.pages / "page.md").read_text()


def test_rows_and_sentences_say_which_values_are_at_an_end(home: Home):
    text = rewritten(home)
    assert "| low | `features.weight` | 0.1: 0.5000; 1.0: 0.5000; 10.0: 0.5000 | 0.1 † |" in text
    assert "10.0: 0.5000 | 1.0 |" in text
    assert "†: at the end of what was tried, in 1 of 2 choices:" in text
    assert "| low | features | 3 | 0.6867" in text
    assert "| inside | – | 3 | 0.6333" in text  # noqa: RUF001 - a dash
    assert "| low † | inside |" in text
    assert "gains.<!-- ends of plan: low | inside --> (†: 1 of 2 arms)<!-- end -->" in text
    assert "loses.<!-- ends of plan: inside --><!-- end -->" in text


def test_what_is_around_the_tables_stays_and_a_second_time_changes_nothing(home: Home):
    text = rewritten(home)
    assert "old" not in text
    assert "### Tiny\n\nCommand: `it`.\n\nChosen before, by" in text
    assert text.endswith("\n![Differences by arm, paired by seed](results/plan.png)\n\n<!-- end -->\nafter\n")
    assert rewritten(home) == text


def test_a_rate_that_all_arms_take_from_the_reference_is_at_an_end_in_all_of_them(home: Home):
    path = home.results / "plan.json"
    told = json.loads(path.read_text())
    told["chosen"] = [choice("none", 10.0, shared=True, key="optimizer.lr"), choice("low", 0.1)]
    path.write_text(json.dumps(told))
    text = rewritten(home)
    assert "| none | rate | 3 |" in text
    assert "| low | features, rate | 3 |" in text


def test_a_mark_of_an_arm_that_is_not_there_is_named(home: Home, capsys: pytest.CaptureFixture[str]):
    (home.pages / "other.md").write_text("x<!-- ends of plan: lo --><!-- end -->")
    assert main(["experiment", "plan", "--rewrite"]) == 2
    assert "the mark of plan: unknown arm 'lo'" in capsys.readouterr().err


def test_numbers_that_are_none_are_refused(home: Home, capsys: pytest.CaptureFixture[str]):
    (home.results / "plan.json").write_text("{}")
    assert main(["experiment", "plan", "--rewrite"]) == StillhouseError("").exit_code
    assert "must be the numbers of an experiment" in capsys.readouterr().err
