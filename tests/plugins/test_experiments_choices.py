"""Values of an experiment whose grids go on: by rounds, to the end of what works, and marked where it is an end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import FEATURES, tables
from support.experiments import TINY, make_home, save_plan

from stillhouse import StillhouseError
from stillhouse.experiments import tuning
from stillhouse.experiments.choice import Choice
from stillhouse_experiments import choices, page
from stillhouse_experiments.experiment import Experiment, read
from stillhouse_experiments.home import Home

LISTED = [FEATURES, {"use": "projector", "kind": "linear"}]
PLAN: dict[str, Any] = {
    **TINY,
    "tuning": {"seeds": [1000], "each": {"optimizer.lr": [1e-3, 1e-2]}, "widen": 2},
    "arms": [
        {"name": "none", "plugins": []},
        {"name": "one", "plugins": LISTED, "tune": {"plugins.features.weight": [0.1, 1.0]}},
    ],
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    return make_home(tables(run__epochs=1))


def scored(monkeypatch: pytest.MonkeyPatch, score: Any) -> list[list[str]]:
    """Nothing is trained: each arm has ``score`` of its rate and its weight. The rounds, as names of arms."""
    rounds: list[list[str]] = []

    def measure(plan: Any, metric: str, *_: Any) -> dict[str, list[float]]:
        assert metric == "val/accuracy"
        rounds.append([arm.name for arm in plan.arms])
        assert not any(arm.recipe.run.test for arm in plan.arms)
        found = {}
        for arm in plan.arms:
            weight = arm.recipe.plugins[0].get("weight") if arm.recipe.plugins else None
            found[arm.name] = [score(arm.recipe.optimizer.lr, weight)]
        return found

    monkeypatch.setattr(tuning, "measure_arms", measure)
    return rounds


def planned(home: Home, **changes: Any) -> Experiment:
    return read(save_plan(home, PLAN, **changes), Path("out"))


def test_each_arm_goes_on_by_itself_until_its_best_is_inside(home: Home, monkeypatch: pytest.MonkeyPatch):
    near = {0.01: 0.5, 0.1: 0.9, 1.0: 0.4}
    rounds = scored(monkeypatch, lambda lr, weight: near.get(lr, 0.1) + {None: 0, 1.0: 0.05}.get(weight, 0.0))
    tuned, found, plans = choices.tuned(planned(home), jobs=1)
    none, one = found
    assert none.chosen == {"optimizer.lr": 0.1}
    assert one.chosen == {"optimizer.lr": 0.1, "plugins.features.weight": 1.0}
    assert (none.ends, one.ends) == ([], [])
    assert len(rounds[0]) == 2 + 4
    assert "one, optimizer.lr=0.1, features.weight=10.0" in rounds[1]
    assert [name for name in rounds[2] if name.startswith("none")] == ["none, optimizer.lr=1.0"]
    assert [arm.name for arm in plans[0].arms] == [name for each in rounds for name in each]
    assert [arm.recipe.optimizer.lr for arm in tuned.plan.arms] == [0.1, 0.1]


def test_what_stays_at_an_end_is_marked_in_its_row_and_in_a_sentence(home: Home, monkeypatch: pytest.MonkeyPatch):
    scored(monkeypatch, lambda lr, weight: lr)
    found = choices.tuned(planned(home), jobs=1)[1]
    assert found[0].tried == [({"optimizer.lr": lr}, lr) for lr in (1e-3, 1e-2, 0.1, 1.0)]
    lines = page.choice_lines(found)
    assert lines[4].endswith("| 1.0 † |")
    assert lines[5].endswith("| 1.0 †, 0.1 |") or lines[5].endswith("| 1.0 †, 1.0 |")
    assert lines[-2].startswith("†: at the end of what was tried, in 2 of 2 choices: beyond it there may be better. ")
    inside = Choice("a", False, "val/accuracy", (1,), [({"x": x}, 0.5) for x in (1.0, 2.0, 4.0)], {"x": 2.0})
    assert not any("†" in line for line in page.choice_lines([inside]))


def test_what_a_grid_went_on_to_is_taken_again(home: Home, monkeypatch: pytest.MonkeyPatch):
    scored(monkeypatch, lambda lr, weight: lr)
    experiment = planned(home)
    tuned, found, _ = choices.tuned(experiment, jobs=1)
    numbers = Path("numbers.json")
    told = [
        {key: getattr(each, key) for key in ("arm", "shared", "metric", "seeds", "tried", "chosen")} for each in found
    ]
    numbers.write_text(json.dumps({"chosen": told}), encoding="utf-8")
    again = choices.taken(experiment, numbers)
    assert again is not None
    assert [arm.recipe for arm in again[0].plan.arms] == [arm.recipe for arm in tuned.plan.arms]
    other = planned(home, tuning={**PLAN["tuning"], "each": {"optimizer.lr": [1e-3, 7e-3]}})
    assert choices.taken(other, numbers) is None, "7e-3 has not been tried"


def test_a_value_with_which_a_run_fails_is_no_choice(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def failing(plan: Any, **_: Any) -> dict[int, str]:
        real = [run for run in plan.runs() if run.recipe.optimizer.lr > 5e-3]
        run_plan(plan, only=[run.index for run in plan.runs() if run not in real])
        return {run.index: "not finite" for run in real}

    run_plan = tuning.run_plan
    monkeypatch.setattr(tuning, "run_plan", failing)
    only = {"seeds": [1000], "each": {"optimizer.lr": [1e-3, 3e-3, 1e-2]}}
    experiment = planned(home, tuning=only, arms=[PLAN["arms"][0], {"name": "one", "plugins": LISTED}])
    found = choices.tuned(experiment, jobs=1)[1]
    assert [each.tried[-1] for each in found] == [({"optimizer.lr": 1e-2}, None)] * 2
    assert all(each.chosen["optimizer.lr"] < 1e-2 for each in found)
    assert found[0].tell_tried().endswith("; 0.01: –")  # noqa: RUF001 - a dash
    assert "none, optimizer.lr=0.01, seed 1000, has no score: not finite" in capsys.readouterr().err
    monkeypatch.setattr(tuning, "run_plan", lambda plan, **_: {run.index: "no room" for run in plan.runs()})
    with pytest.raises(StillhouseError, match="every run of a round failed: no room"):
        choices.tuned(experiment, jobs=1)
