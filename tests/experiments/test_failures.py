"""Runs that diverge, end with an error or have no finite value count as failures of their arm, in every table."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from support import FEATURES, recipe

from stillhouse import Recipe, StillhouseError, hookimpl, train
from stillhouse.cli import main
from stillhouse.contract.plugin import Plugin, plugin
from stillhouse.experiments import ablate, compare, holm, paired_difference, t_interval, welch_difference
from stillhouse.experiments.comparison import Group, compare_groups
from stillhouse.experiments.tables import to_markdown

FAST: dict[str, Any] = {"run__epochs": 1, "teacher__args": {"width": 4}}


@plugin
class Brittle(Plugin):
    """Makes the student NaN under odd seeds, or only its score."""

    what: str = "weights"

    @hookimpl
    def epoch_started(self, run: Any) -> None:
        if run.seed % 2 and self.what == "weights":
            run.student.head.bias.data[0] = math.nan


BRITTLE = {"use": f"{__name__}:Brittle"}


@pytest.mark.filterwarnings("ignore:.*not finite after epoch")
def test_an_arm_that_diverged_under_some_seeds_says_so_with_its_pairs(tmp_path: Path):
    found = ablate(recipe(BRITTLE, **FAST), seeds=5, out=tmp_path / "a")  # 3 to 7, of which three are odd
    rows = {row.group.name: row for row in found.rows}
    assert sorted(rows["full"].group.values) == [4, 6]
    assert sorted(rows["full"].group.failed) == [3, 5, 7]
    assert all("not finite" in error for error in rows["full"].group.failed.values())
    assert rows["none"].group.failed == {}
    text = (tmp_path / "a" / "table.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("| full |")]
    assert "| 2 of 5 |" in line
    assert " n=2" in line
    assert "Runs that have diverged, ended with an error or have no finite value are failures of their arm" in text
    assert "3 runs have no result:" in text
    assert "full, seed 3: " in text
    told = json.loads((tmp_path / "a" / "results.json").read_text(encoding="utf-8"))
    (full,) = [group for group in told["groups"] if group["name"] == "full"]
    assert list(full["failed"]) == ["3", "5", "7"]
    again = compare([tmp_path / "a"])  # the folder tells the same, though the runs that failed have left nothing there
    rows = {row.group.name: row for row in again.rows}
    assert sorted(rows["full"].group.failed) == [3, 5, 7]
    assert all("not finite" in error for error in rows["full"].group.failed.values())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs without plugins and with features under the seeds 0 to 2, of one training each."""
    root = tmp_path_factory.mktemp("runs")
    for name, plugins in (("none", ()), ("features", (FEATURES,))):
        train(recipe(*plugins, **FAST, run__seed=0), out=root / name / "0")
        for seed in (1, 2):
            copied = shutil.copytree(root / name / "0", root / name / str(seed))
            made = Recipe.load(copied / "recipe.toml").to_dict()
            made["run"]["seed"] = seed
            (copied / "recipe.toml").write_text(tomli_w.dumps(made), encoding="utf-8")
            for file in ("lock.json", "summary.json"):
                told = json.loads((copied / file).read_text(encoding="utf-8")) | {"seed": seed}
                if file == "summary.json":
                    told["metrics"]["test"]["accuracy"] += 0.01 * seed * (2 if plugins else 1)
                (copied / file).write_text(json.dumps(told), encoding="utf-8")
    return root


@pytest.mark.parametrize("text", ["null", "NaN", "Infinity"])  # NaN: as older versions wrote it
def test_a_value_that_is_not_finite_is_none_and_named(runs: Path, tmp_path: Path, text: str, capsys: Any):
    shutil.copytree(runs, tmp_path / "runs")
    summary = tmp_path / "runs" / "features" / "1" / "summary.json"
    told = json.loads(summary.read_text(encoding="utf-8"))
    told["metrics"]["test"]["accuracy"] = "HERE"
    summary.write_text(json.dumps(told).replace('"HERE"', text), encoding="utf-8")
    found = compare([tmp_path / "runs" / "none", tmp_path / "runs" / "features"])
    row = found.rows[1]
    assert sorted(row.group.values) == [0, 2]
    assert row.group.failed == {1: "test/accuracy is not finite"}
    (difference,) = row.differences.values()
    assert difference is not None
    assert difference.n == 2
    assert [item["folder"] for item in found.missing] == [str(summary.parent)]
    assert "2 of 3" in to_markdown(found)
    assert main(["compare", str(tmp_path / "runs" / "none"), str(tmp_path / "runs" / "features"), "--json"]) == 0
    captured = capsys.readouterr()
    json.loads(captured.out, parse_constant=pytest.fail)
    assert "missing: " in captured.err
    assert "seed 1: test/accuracy is not finite" in captured.err


def test_one_p_value_that_is_none_takes_no_star_from_others():
    assert holm([math.nan, 0.01, 0.02]) == [None, 0.02, 0.02]
    assert holm([0.02, math.nan, math.inf, 0.01]) == [0.02, None, None, 0.02]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_statistics_take_finite_numbers_alone(value: float):
    for measure in (
        lambda: paired_difference([value, 1.0, 2.0], [0.0, 1.0, 2.0]),
        lambda: paired_difference([0.0, 1.0], [0.0, value]),
        lambda: welch_difference([0.0, value], [1.0, 2.0]),
        lambda: t_interval([1.0, value]),
        lambda: compare_groups("test/x", [Group("a", {0: value, 1: 0.5})]),
    ):
        with pytest.raises(StillhouseError, match=f"measurements must be finite, got {value}"):
            measure()


def test_a_table_of_arms_of_which_one_has_nothing(tmp_path: Path):
    against = {"none": "none"}
    groups = [
        Group("none", {0: 0.5, 1: 0.6, 2: 0.7}, against=against),
        Group("some", {0: 0.6, 2: 0.9}, against=against, failed={1: "diverged"}),
        Group("all", {}, against=against, failed=dict.fromkeys(range(3), "diverged")),
    ]
    text = to_markdown(compare_groups("test/accuracy", groups))
    lines = [line for line in text.splitlines() if line.startswith(("| none", "| some", "| all"))]
    assert [line.split("|")[2].strip() for line in lines] == ["3", "2 of 3", "0 of 3"]
    assert lines[2].count("\u2013") >= 2
