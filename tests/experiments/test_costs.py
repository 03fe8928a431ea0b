"""What each arm costs and which alarms its runs have raised, in the table of an ablation and of compared runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import FEATURES, recipe

from stillhouse.cli import main
from stillhouse.experiments.comparison import Group, compare_groups
from stillhouse.experiments.costs import CountedAlarm, average_costs, count_alarms
from stillhouse.experiments.tables import to_markdown

ALARM = {"kind": "zero matrix", "about": "projector/weight", "what": "w", "advice": "try another init", "step": 3}


def summary(step: float = 2.0, device: str = "cpu", **plugins: tuple[int, float]) -> dict[str, Any]:
    costs = {
        "step_ms": {"step": step},
        "samples_per_second": 100 * step,
        "peak_memory_mb": 800.0,
        "plugins": {name: {"parameters": count, "memory_mb": size} for name, (count, size) in plugins.items()},
    }
    return {"device": device, "costs": costs, "alarms": []}


def test_costs_are_means_over_runs_and_sums_over_plugins():
    runs = [summary(step, features=(10, 0.5), projector=(32, 1.0)) for step in (2.0, 4.0)]
    assert average_costs(runs) == {
        "step_ms": 3.0,
        "plugin_parameters": 42.0,
        "plugin_memory_mb": 1.5,
        "samples_per_second": 300.0,
    }
    assert average_costs([summary()])["plugin_parameters"] == 0


def test_the_peak_is_told_of_a_gpu_alone():
    assert average_costs([summary(device="cuda:1")])["peak_memory_mb"] == 800.0
    assert "peak_memory_mb" not in average_costs([summary()])


@pytest.mark.parametrize("costs", [None, {}, {"step_ms": {}, "plugins": {}}])
def test_what_no_run_knows_is_left_out(costs: Any):
    runs = [{"device": "cpu"} if costs is None else {"device": "cpu", "costs": costs}]
    assert "step_ms" not in average_costs(runs)
    assert average_costs([*runs, summary(5.0)])["step_ms"] == 5.0


def test_costs_that_somebody_has_edited_are_left_out():
    odd = {"step_ms": [1], "samples_per_second": "many", "plugins": {"a": {"parameters": None, "memory_mb": "1"}}}
    assert average_costs([{"device": "cpu", "costs": odd}]) == {}


def test_the_table_has_a_column_for_each_cost_and_alarms_below():
    groups = [
        Group("none", {0: 0.5}, costs={"step_ms": 1.234, "plugin_parameters": 0.0}),
        Group("full", {0: 0.6}, costs={"plugin_parameters": 1234.0}, alarms=count_alarms([{"alarms": [ALARM]}] * 2)),
    ]
    found = compare_groups("val/accuracy", groups)
    lines = to_markdown(found).splitlines()
    assert lines[2].endswith("| step, ms | plugins' parameters |")
    assert lines[4].endswith("| 1.23 | 0 |")
    assert lines[5].endswith("| – | 1,234 |")  # noqa: RUF001 - a dash
    assert "Alarms:  " in lines
    assert "full: zero matrix, projector/weight, in 2 of its runs; try another init.  " in lines
    told = found.to_dict()["groups"]
    assert told[0]["costs"]["step_ms"] == 1.234
    assert told[1]["alarms"] == [
        {"kind": "zero matrix", "about": "projector/weight", "advice": "try another init", "runs": 2}
    ]


def test_what_costs_no_arm_anything_has_no_column():
    groups = [Group(name, {0: 0.5}, costs={"step_ms": 1.0, "plugin_parameters": 0.0}) for name in ("none", "full")]
    assert "parameters" not in to_markdown(compare_groups("val/accuracy", groups))


def test_a_table_without_costs_has_no_columns_of_them():
    text = to_markdown(compare_groups("val/accuracy", [Group("none", {0: 0.5})]))
    assert "ms" not in text
    assert "larms" not in text


def test_alarms_are_counted_by_kind_and_what_they_are_about():
    other = {**ALARM, "about": "features"}
    found = count_alarms([{"alarms": [other]}, {"alarms": [ALARM, other]}, {}])
    assert found == (
        CountedAlarm("zero matrix", "features", "try another init", 2),
        CountedAlarm("zero matrix", "projector/weight", "try another init", 1),
    )


def test_an_ablation_and_a_comparison_of_its_runs_tell_the_same_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    same: dict[str, Any] = {"run__epochs": 1, "teacher__args": {"width": 4}, "data__args": {"train": 64}}
    (tmp_path / "r.toml").write_text(recipe(FEATURES, **same).to_toml())
    out = tmp_path / "a"
    assert main(["ablate", str(tmp_path / "r.toml"), "--seeds", "1", "--one-at-a-time", "--out", str(out), "-q"]) == 0
    groups = {group["name"]: group for group in json.loads((out / "results.json").read_text())["groups"]}
    costs = json.loads(next(out.glob("full/seed-*/summary.json")).read_text())["costs"]
    assert groups["full"]["costs"]["step_ms"] == costs["step_ms"]["step"] > 0
    assert groups["none"]["costs"]["plugin_parameters"] == 0
    assert "step, ms" in (out / "table.md").read_text()
    capsys.readouterr()
    assert main(["compare", str(out), "--json"]) == 0
    told = {group["name"]: group for group in json.loads(capsys.readouterr().out)["groups"]}
    assert {name: group["costs"] for name, group in told.items()} == {n: g["costs"] for n, g in groups.items()}
