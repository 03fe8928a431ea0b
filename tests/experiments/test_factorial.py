"""Factorials: every combination of plugins that are there or not, and what each and each two of them add."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import FEATURES, recipe

from stillhouse import StillhouseError
from stillhouse.cli import main
from stillhouse.experiments import ablate
from stillhouse.experiments.ablation import make_plan
from stillhouse.experiments.arms import make_arms
from stillhouse.experiments.grid import parse_factors
from stillhouse.experiments.listing import list_runs

FAST: dict[str, Any] = {"run__epochs": 1, "teacher__args": {"width": 4}}
LOGITS = {"use": "logits"}
PROJECTOR = {"use": "projector"}


def arms_of(*plugins: dict[str, Any], factors: list[str]) -> dict[str, tuple[str, ...]]:
    whole = recipe(*plugins)
    found = make_arms(whole, leave_one_out=False, one_at_a_time=False, axes=parse_factors(factors, whole))
    return {name: arm.plugins for arm in found for name in (arm.name, *arm.merged)}


def test_every_combination_is_an_arm_and_all_and_none_of_a_list_are_full_and_none():
    found = arms_of(FEATURES, LOGITS, factors=["features", "logits"])
    assert found == {
        "none": (),
        "features=off,logits=off": (),
        "full": ("features", "logits"),
        "features=on,logits=on": ("features", "logits"),
        "features=off,logits=on": ("logits",),
        "features=on,logits=off": ("features",),
    }


def test_what_belongs_together_is_one_factor_and_what_is_not_named_stays():
    found = arms_of(FEATURES, PROJECTOR, LOGITS, factors=["features+projector"])
    assert found["features+projector=off"] == ("logits",)
    assert found["full"] == found["features+projector=on"] == ("features", "projector", "logits")


def test_effects_stand_in_every_table_and_are_the_means_of_differences_between_cells(tmp_path: Path):
    path = tmp_path / "r.toml"
    path.write_text(recipe(FEATURES, {**LOGITS, "weight": 30.0}, **FAST).to_toml())
    out = tmp_path / "a"
    command = ["ablate", str(path), "--factorial", "features", "logits", "--seeds", "2", "--out", str(out), "--quiet"]
    assert main([*command, "--metric", "val/loss"]) == 0
    told = json.loads((out / "results.json").read_text())
    values = {group["name"]: np.asarray(group["values"]) for group in told["groups"]}
    only, other = values["features=on,logits=off"], values["features=off,logits=on"]
    none, full = values["none"], values["full"]
    expected = {
        "with features": (only + full - none - other) / 2,
        "with logits": (other + full - none - only) / 2,
        "with features × with logits": full - only - other + none,  # noqa: RUF001 - a times sign
    }
    assert [effect["name"] for effect in told["effects"]] == list(expected)
    for effect in told["effects"]:
        assert effect["mean"] == pytest.approx(expected[effect["name"]].mean())
        assert effect["n"] == 2
    page = (out / "report.html").read_text()
    table = (out / "table.md").read_text()
    for name in expected:
        assert f"| {name} | 2 |" in table
        assert name in page


def test_runs_have_numbers_before_it_is_known_which_are_one_and_effects_are_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    asked: dict[str, Any] = {"factorial": ["features", "logits"], "seeds": 2, "out": tmp_path / "a"}
    whole = recipe(FEATURES, LOGITS, **FAST)
    plan, _ = make_plan(whole, **asked)
    assert [run.index for run in plan.runs()] == [0, 1, 3, 4, 6, 7, 9, 10]
    listed = [(run.index, run.arm) for run in list_runs(whole, **asked)]
    assert listed[:6] == list(
        enumerate(
            [
                "none",
                "full",
                "features=off,logits=off",
                "features=off,logits=on",
                "features=on,logits=off",
                "features=on,logits=on",
            ]
        )
    )
    ablate(whole, **asked)
    assert main(["compare", str(tmp_path / "a")]) == 0
    assert "with features × with logits" in capsys.readouterr().out  # noqa: RUF001 - a times sign


@pytest.mark.parametrize(
    ("factors", "grid", "message"),
    [
        (["featurs"], [], r"--factorial featurs: the recipe's list has no plugin 'featurs' \(did you mean 'features'"),
        (["features", "features"], [], r"--factorial features: 'features' must be named once"),
        (["features+features"], [], r"'features' must be named once"),
        (list("abcdefg"), [], r"must be at most 6 factors, got 7, which are 128 arms"),
        (["features"], ["features.weight=1,2"], r"--grid plugins.features.weight: must not be an option of a plugin"),
        (["features", "projector"], [], r"plugins that need one another are one factor"),
    ],
)
def test_factors_that_are_none_are_refused(factors: list[str], grid: list[str], message: str, tmp_path: Path):
    with pytest.raises(StillhouseError) as raised:
        make_plan(recipe(FEATURES, PROJECTOR), seeds=2, factorial=factors, grid=grid, out=tmp_path / "a")
    text = "\n".join(str(fault) for fault in raised.value.faults)
    assert re.search(message, text), text
    assert not (tmp_path / "a").exists()
