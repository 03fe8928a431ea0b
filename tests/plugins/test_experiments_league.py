"""The league's plans: all methods of the pack are in them, and the one on the digits runs from its command to its page."""

from __future__ import annotations

import json
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from support.classics import LISTS
from support.imports import ROOT

from stillhouse.cli import main

PLANS = ROOT / "docs/experiments/plans"


def plan_of(name: str) -> dict[str, Any]:
    return tomllib.loads((PLANS / f"{name}.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["league", "league-photographs"])
def test_every_method_of_the_pack_is_in_it_and_tuned_alike(name: str):
    plan = plan_of(name)
    none, logits, *methods = plan["arms"]
    assert [none["name"], logits["name"], *(arm["name"] for arm in methods)] == ["none", "logits", *sorted(LISTS)]
    for arm in (logits, *methods):
        assert arm["plugins"][-1]["use"] == arm["name"]
        ((key, values),) = arm["tune"].items()
        assert key == f"plugins.{arm['name']}.weight"
        assert [round(b / a, 6) for a, b in pairwise(values)] == [10, 10]
    assert plan["tuning"]["widen"] > 0
    assert any("optimizer.lr" in plan["tuning"].get(key, {}) for key in ("shared", "each"))


@pytest.mark.slow
def test_it_runs_from_its_command_to_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = plan_of("league")
    for arm in plan["arms"]:
        if "tune" in arm:
            arm["tune"] = {key: values[:1] for key, values in arm["tune"].items()}
    plan |= {
        "recipe": str(ROOT / "docs/recipes/digits-vkd.toml"),
        "set": ["run.epochs=1"],
        "seeds": 2,
        "tuning": {"seeds": [1000], "each": {"optimizer.lr": [1e-3]}},
    }
    home = tmp_path / "home"
    (home / "plans").mkdir(parents=True)
    (home / "plans/league.toml").write_text(tomli_w.dumps(plan), encoding="utf-8")
    page = home / "page.md"
    page.write_text("<!-- results: league cost -->\n<!-- end -->\n<!-- results: league -->\n<!-- end -->\n")
    monkeypatch.chdir(tmp_path)
    assert main(["experiment", "league", "--folder", str(home), "--jobs", "1"]) == 0
    assert main(["experiment", "league", "--folder", str(home), "--figure", "cost"]) == 0
    numbers = json.loads((home / "results/league.json").read_text(encoding="utf-8"))
    assert [group["name"] for group in numbers["groups"]] == ["none", "logits", *sorted(LISTS)]
    assert all(len(group["values"]) == 2 for group in numbers["groups"])
    text = page.read_text(encoding="utf-8")
    assert all(text.count(f"| {name} |") == 3 for name in LISTS), (
        "in the league, among the choices and among the intervals"
    )
