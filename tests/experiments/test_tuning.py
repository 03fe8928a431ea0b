"""Arms that choose for themselves: on validation samples, under seeds that nobody reports, of the keys that they have."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support import FEATURES, recipe

from stillhouse import StillhouseError
from stillhouse.cli import main
from stillhouse.experiments import ablate, tuning
from stillhouse.experiments.ablation import make_plan
from stillhouse.experiments.tuning import Tuning

FAST: dict[str, Any] = {"run__epochs": 1, "teacher__args": {"width": 4}}
RATES = "optimizer.lr=1e-9,5e-2"


def test_what_each_arm_chose_is_what_it_runs_with_and_is_told_in_every_table(tmp_path: Path):
    path, out = tmp_path / "r.toml", tmp_path / "a"
    path.write_text(recipe(FEATURES, **FAST).to_toml())
    command = ["ablate", str(path), "--seeds", "2", "--out", str(out), "--quiet", "--tune-seeds", "1", "--widen", "0"]
    assert main([*command, "--tune", RATES, "features.weight=0.1,1"]) == 0
    told = json.loads((out / "results.json").read_text())
    none, full = told["chosen"]
    assert (none["arm"], full["arm"]) == ("none", "full")
    assert list(none["chosen"]) == ["optimizer.lr"], "it has no plugin whose weight it could choose"
    assert list(full["chosen"]) == ["optimizer.lr", "plugins.features.weight"]
    assert len(full["tried"]) == 4
    best = max(mean for _, mean in full["tried"])
    assert [full["chosen"], best] in full["tried"]
    run = tomllib.loads((out / "full" / "seed-3" / "recipe.toml").read_text())
    assert run["optimizer"]["lr"] == full["chosen"]["optimizer.lr"]
    assert run["plugins"][0]["weight"] == full["chosen"]["plugins.features.weight"]
    assert all(group["seeds"] == [3, 4] for group in told["groups"])
    chose = sorted((tmp_path / "a-tuning").glob("*/seed-*/summary.json"))
    summaries = [json.loads(summary.read_text()) for summary in chose]
    assert {summary["seed"] for summary in summaries} == {10_003}
    assert len(summaries) == 2 + 4
    assert not any("test" in summary["metrics"] for summary in summaries)
    table = (out / "table.md").read_text()
    assert "| chosen |" in table
    assert "optimizer.lr=" in table
    assert (
        "chosen: by each arm for itself before the runs of this table, by the mean of val/accuracy over the seeds 10003"
        in table
    )
    assert "†: at the end of what was tried, in 2 of 2 choices" in table
    page = (out / "report.html").read_text()
    assert "What was chosen before" in page
    assert page.count(">no<") == 2, "neither best lay inside"


def test_the_same_command_trains_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, Any] = {"seeds": 2, "out": tmp_path / "a", "tune": Tuning((RATES,), seeds=1, widen=1)}
    first = ablate(recipe(FEATURES, **FAST), **asked)
    monkeypatch.setattr("stillhouse.training.preparation.train", None)
    again = ablate(recipe(FEATURES, **FAST), **asked)
    assert again.to_dict() == first.to_dict()
    assert not first.missing


def test_grids_go_on_where_the_best_is_at_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def measure(plan: Any, *_: Any) -> dict[str, list[float]]:
        return {arm.name: [-abs(arm.recipe.optimizer.lr - 0.1)] for arm in plan.arms}

    monkeypatch.setattr(tuning, "measure_arms", measure)
    plan, _ = make_plan(recipe(FEATURES, **FAST), seeds=2, out=tmp_path / "a")
    found = tuning.tune_plan(plan, Tuning(("optimizer.lr=1e-3,1e-2",)))
    assert [choice.chosen for choice in found.choices] == [{"optimizer.lr": 0.1}] * 2
    assert [choice.ends for choice in found.choices] == [[], []]
    assert {arm.recipe.optimizer.lr for arm in found.arms} == {0.1}
    stopped = tuning.tune_plan(plan, Tuning(("optimizer.lr=1e-3,1e-2",), widen=1))
    assert [choice.ends for choice in stopped.choices] == [["optimizer.lr"]] * 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Tuning(("optimizer.lr=1e-3",)), "--tune optimizer.lr: needs two values to choose from"),
        (Tuning(("optimiser.lr=1,2",)), "--tune optimiser.lr: unknown table or plugin 'optimiser'"),
        (Tuning((RATES,), seeds=0), "--tune-seeds: must be >= 1, got 0"),
        (Tuning((RATES,), widen=-1), "--widen: must be >= 0, got -1"),
        (Tuning(("optimizer.lrr=1,2",)), "lrr"),
    ],
)
def test_what_cannot_be_chosen_is_refused_before_anything_is_written(asked: Tuning, message: str, tmp_path: Path):
    with pytest.raises(StillhouseError) as raised:
        ablate(recipe(FEATURES, **FAST), seeds=2, out=tmp_path / "a", tune=asked)
    assert message in "\n".join(str(fault) for fault in raised.value.faults)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [["--list"], ["--only", "0"]])
def test_runs_that_are_not_known_yet_are_not_listed(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "r.toml").write_text(recipe(FEATURES, **FAST).to_toml())
    assert main(["ablate", str(tmp_path / "r.toml"), "--tune", RATES, *option]) == 2
    assert "--tune: runs are known when the values are chosen" in capsys.readouterr().err
