"""Hopeless arms stop early on request: they are told of in every table, and are in no test."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import support
from support import FEATURES, recipe

from stillhouse import StillhouseError
from stillhouse.cli import main
from stillhouse.experiments import ablate
from stillhouse.experiments.arms import Arm
from stillhouse.experiments.halving import Halving, find_hopeless, list_budgets
from stillhouse.experiments.tuning import Tuning

HOPELESS = "features.weight=1e-6,1e38"
FAST: dict[str, Any] = {"run__epochs": 2, "teacher__args": {"width": 4}, "optimizer": {"name": "sgd", "lr": 5e-2}}


def arms_of(means: dict[str, float | None], mode: Any = "max", group: str = "") -> dict[str, str]:
    kinds: dict[str, Any] = {"none": "none", "full": "full"}
    return find_hopeless([Arm(n, kinds.get(n, "grid"), recipe(), group=group) for n in means], means, mode)


def test_a_hopeless_arm_is_stopped_and_every_table_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, out = tmp_path / "r.toml", tmp_path / "a"
    path.write_text(recipe(FEATURES, **FAST).to_toml())
    command = ["ablate", str(path), "--seeds", "2", "--out", str(out), "--grid", HOPELESS, "--quiet"]
    assert main([*command, "--halving", "--halving-seeds", "1"]) == 0
    told = json.loads((out / "results.json").read_text())
    groups = {group["name"]: group for group in told["groups"]}
    name = next(name for name, group in groups.items() if group["stopped"])
    stopped = groups[name]["stopped"]
    assert "1e38" in name
    assert (stopped["epochs"], stopped["of"], stopped["control"], stopped["seeds"]) == (1, 2, "none", [20_003])
    assert groups[name]["values"] == []
    assert not any(groups[name]["differences"].values())
    assert groups["none"]["stopped"] is None
    # A family has the comparisons of the arms that ran, and no more.
    assert told["families"]["none"]["comparisons"] == len(groups) - 2
    assert told["missing"] == []
    assert not any("1e38" in str(folder) for folder in out.iterdir()), "no run of it that would be reported"
    short = [json.loads(file.read_text()) for file in (tmp_path / "a-halving").glob("*/seed-*/summary.json")]
    assert short
    assert not any("test" in summary["metrics"] for summary in short)
    table, page = (out / "table.md").read_text(), (out / "report.html").read_text()
    for text in (table, page):
        assert "stopped after 1 of 2 epochs" in text
        assert "in no test, and in no family of comparisons" in text
    assert "Groups stopped before, and not tested: 1." in page
    assert "stopped" in capsys.readouterr().out


def test_what_was_stopped_stays_stopped_with_any_number_of_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, Any] = {"seeds": 2, "grid": [HOPELESS], "halving": Halving(seeds=1)}
    first = ablate(recipe(FEATURES, **FAST), **asked, out=tmp_path / "a")
    assert len(first.stopped) == 1
    beside = ablate(recipe(FEATURES, **FAST), **asked, out=tmp_path / "b", jobs=2)
    assert beside.stopped == first.stopped
    monkeypatch.setattr("stillhouse.experiments.job._trained", trained := Trained())
    again = ablate(recipe(FEATURES, **FAST), **asked, out=tmp_path / "a")
    assert again.stopped == first.stopped
    assert all("1e38" in folder for folder in trained.folders), "but for the run that failed, nothing is trained again"


def test_arms_are_judged_with_the_values_that_they_chose(tmp_path: Path):
    tune, grid = Tuning(("optimizer.lr=1e-2,5e-2",), seeds=1, widen=0), ["features.weight=1e-6,10"]
    found = ablate(recipe(FEATURES, **FAST), seeds=2, grid=grid, tune=tune, halving=Halving(1), out=tmp_path / "a")
    assert all(row.group.columns["chosen"].startswith("optimizer.lr=") for row in found.rows)
    short = (tmp_path / "a-halving").glob("*/seed-20003/recipe.toml")
    rates = sorted(tomllib.loads(file.read_text())["optimizer"]["lr"] for file in short)
    assert rates == sorted(choice.chosen["optimizer.lr"] for choice in found.choices)


class Trained:
    """Notes what would be trained."""

    def __init__(self) -> None:
        self.folders: list[str] = []

    def __call__(self, recipe: Any, folder: Path) -> Any:
        self.folders.append(str(folder))
        raise StillhouseError("its loss is not finite")


def test_references_never_stop_and_nothing_stops_that_is_not_behind_the_control():
    assert arms_of({"none": 0.5, "full": 0.1, "a": 0.6, "b": 0.2, "c": None, "d": 0.7}) == {"b": "none", "c": "none"}
    assert arms_of({"none": 0.5, "full": None, "a": None, "b": None}) == {"a": "none", "b": "none"}, "most have failed"
    assert arms_of({"none": 0.5, "full": 0.9, "a": 0.6, "b": 0.7, "c": 0.8}) == {}, "all are ahead of it"
    assert arms_of({"none": None, "full": 0.9, "a": 0.6, "b": 0.1}) == {}, "there is nothing to be behind"
    assert arms_of({"none": 0.5, "full": 0.9, "a": 0.4, "b": 0.3}, "min") == {}
    assert arms_of({"none": 0.5, "full": 0.6, "a": 0.4, "b": 0.7}, "min") == {"b": "none"}
    assert arms_of({"none": 0.5, "full": 0.4, "a": 0.5, "b": 0.5}) == {}, "a tie is not behind"


@pytest.mark.parametrize(("epochs", "budgets"), [(2, [1]), (4, [1, 2]), (10, [1, 2, 5]), (200, [25, 50, 100])])
def test_rounds_have_twice_the_epochs(epochs: int, budgets: list[int]):
    assert list_budgets(epochs) == budgets


@pytest.mark.parametrize(
    ("changes", "asked", "message"),
    [
        ({}, {"halving": Halving(seeds=0)}, "--halving-seeds: must be >= 1, got 0"),
        ({"run__epochs": 1}, {}, "--halving: needs runs of two epochs or more"),
        ({}, {"factorial": ["features"]}, "--halving: stops arms, and the effects of --factorial need all of them"),
    ],
)
def test_halving_that_cannot_be_is_refused(changes: Any, asked: Any, message: str, tmp_path: Path):
    with pytest.raises(StillhouseError) as raised:
        ablate(recipe(FEATURES, **FAST | changes), seeds=2, out=tmp_path / "a", **{"halving": Halving(), **asked})
    assert message in "\n".join(str(fault) for fault in raised.value.faults)
    assert not list(tmp_path.iterdir())


def test_without_a_validation_split_there_is_nothing_to_go_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(support, "tiny_data", lambda whole=support.tiny_data: {"train": whole()["train"]})
    with pytest.raises(StillhouseError, match="--halving: needs a validation split to go by"):
        ablate(recipe(FEATURES, **FAST, data__val_fraction=0.0), seeds=2, out=tmp_path / "a", halving=Halving())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [["--list"], ["--only", "0"]])
def test_arms_that_may_stop_are_not_listed(option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "r.toml").write_text(recipe(FEATURES, **FAST).to_toml())
    assert main(["ablate", str(tmp_path / "r.toml"), "--halving", *option]) == 2
    assert "--halving: which arms run is known when the others are stopped" in capsys.readouterr().err
