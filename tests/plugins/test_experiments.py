"""Experiments: plans, values chosen before anything is reported, pairs corrected together, what a page has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from support import FEATURES, tables
from support.experiments import LINEAR, TINY, make_home, save_plan

from stillhouse import StillhouseError, prepare
from stillhouse.cli import main
from stillhouse.experiments.ablation import run_plan
from stillhouse.experiments.choice import Choice
from stillhouse.experiments.comparison import Group, compare_groups
from stillhouse_experiments import choices, clock, page
from stillhouse_experiments.experiment import Experiment, read
from stillhouse_experiments.home import Home
from stillhouse_experiments.teachers import teachers_line

PLAN: dict[str, Any] = {
    **TINY,
    "pairs": [["one", "none"]],
    "lists": {"pair": [FEATURES]},
    "teachers": {"narrow": {"model": "support:TinyNet", "args": {"width": 3}, "random": True}},
    "settings": [{"name": "few", "set": ["data.limit=8"]}, {"name": "all"}],
    "tuning": {"seeds": [1000, 1001], "shared": {"optimizer.lr": [1e-9, 5e-2]}},
    "arms": [
        {"name": "none", "plugins": []},
        {"name": "one", "plugins": ["pair", LINEAR], "tune": {"plugins.features.weight": [0.1, 1.0]}},
        {"name": "narrow", "plugins": ["pair", LINEAR], "teacher": "narrow"},
    ],
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "machine", lambda: "none")
    return make_home(tables(run__epochs=12))


def planned(home: Home, **changes: Any) -> Experiment:
    """The experiment of the plan with these changes."""
    return read(save_plan(home, PLAN, **changes), Path("out"))


def test_a_plan_names_lists_and_teachers_and_runs_every_arm_in_every_setting(home: Home):
    experiment = planned(home)
    arms = {arm.name: arm for arm in experiment.plan.arms}
    assert list(arms) == ["few: none", "few: one", "few: narrow", "all: none", "all: one", "all: narrow"]
    assert arms["few: one"].plugins == ("features", "projector")
    assert arms["few: one"].recipe.data.limit == 8
    assert arms["all: one"].recipe.data.limit is None
    assert arms["all: none"].recipe.teacher is None
    assert arms["all: narrow"].recipe.teacher.args == {"width": 3}
    assert experiment.pairs == (("few: one", "few: none"), ("all: one", "all: none"))
    assert experiment.reference_of(arms["all: one"]) == "all: none"
    assert experiment.plan.seeds == (3, 4)


def test_what_an_arm_sets_in_a_named_list_is_that_arms_alone(home: Home):
    one = {"name": "one", "plugins": ["pair", LINEAR], "set": ["plugins.features.weight=7"]}
    experiment = planned(home, arms=[PLAN["arms"][0], one, PLAN["arms"][2]], settings=None, tuning=None)
    weights = {arm.name: table.get("weight") for arm in experiment.plan.arms for table in arm.recipe.plugins[:1]}
    assert weights["one"] == 7
    assert weights["narrow"] != 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": "test/accuracy"}, "unknown key 'metrics'.*'metric'"),
        ({"reference": "nine"}, "unknown arm 'nine'.*'one'|unknown arm 'nine'.*'none'"),
        ({"pairs": [["one", "two"]]}, "unknown arm 'two'"),
        ({"lists": None}, "nothing is named 'pair'"),
        ({"arms": [{"name": "none", "tunes": {}}]}, "unknown key 'tunes'"),
        ({"arms": [{"name": "none"}, {"name": "same"}], "pairs": []}, "are the same run"),
        ({"tuning": {"seeds": [4, 5]}}, r"tuning.seeds.*\[4\] would both choose and be reported"),
        ({"tuning": None}, r"`tune`.*no \[tuning\]"),
        ({"title": None, "metric": 3}, r"(?s)title: missing key.*metric: must be text, got 3"),
        ({"seeds": 0}, "seeds: must be >= 1, got 0"),
        ({"figures": ["angels"]}, "figures: unknown name 'angels'.*'angles'"),
        ({"arms": [{"name": "none"}, {"name": "none"}], "pairs": []}, "two are named 'none'"),
        ({"arms": [{"name": "none", "teacher": True}], "pairs": []}, r"teacher: must be .*, got True"),
        ({"settings": [{"name": "few"}, {"name": "few"}]}, "settings: two are named 'few'"),
        ({"tuning": {"seeds": [1000], "shared": {"optimizer.lr": []}}}, "optimizer.lr: has no value to try"),
        ({"tuning": {"seeds": [1000], "widen": -1}}, "tuning.widen: must be >= 0, got -1"),
        ({"tuning": {"seeds": [1000], "each": {"a": [1]}, "shared": {"a": [1]}}}, "tuning.each.a: is under `shared`"),
        ({"recipe": "recipes/none.toml"}, "none.toml"),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(home: Home, changes: dict[str, Any], message: str):
    with pytest.raises(StillhouseError, match=message) as raised:
        planned(home, **changes)
    assert all(fault.where.startswith("docs/experiments/plans/plan.toml") for fault in raised.value.faults)


def test_values_are_chosen_by_validation_on_seeds_of_their_own(home: Home, monkeypatch: pytest.MonkeyPatch):
    experiment = planned(home, settings=None)
    tuned, chosen, plans = choices.tuned(experiment, jobs=1)
    runs = [run for plan in plans for run in plan.runs()]
    assert [len(plan.runs()) for plan in plans] == [4, 4], "two values, two seeds, at each stage"
    found: dict[str, list[float]] = {}
    for run in runs:
        summary = run.summary()
        assert summary is not None
        assert run.seed in (1000, 1001)
        assert list(summary["metrics"]) == ["val"], "the test split is not measured"
        found.setdefault(run.arm, []).append(summary["metrics"]["val"]["accuracy"])
    shared, own = chosen
    assert (shared.arm, shared.shared, shared.metric) == ("none", True, "val/accuracy")
    assert (own.arm, own.shared) == ("one", False)
    assert shared.tried == [({"optimizer.lr": v}, np.mean(found[f"none, optimizer.lr={v}"])) for v in (1e-9, 5e-2)]
    assert shared.chosen == max(shared.tried, key=lambda each: each[1])[0]
    lr = shared.chosen["optimizer.lr"]
    assert {arm.recipe.optimizer.lr for arm in tuned.plan.arms} == {lr}
    assert {run.recipe.optimizer.lr for run in plans[1].runs()} == {lr}, "weights are chosen with the chosen rate"
    weights = {arm.name: table.get("weight") for arm in tuned.plan.arms for table in arm.recipe.plugins[:1]}
    assert weights["one"] == own.chosen["plugins.features.weight"]
    assert all(arm.recipe.run.test for arm in tuned.plan.arms)
    assert own.tell_tried() == f"0.1: {own.tried[0][1]:.4f}; 1.0: {own.tried[1][1]:.4f}"

    before = {run.folder: (run.folder / "summary.json").read_text() for run in runs}
    monkeypatch.setattr("stillhouse.training.preparation.train", None)  # nothing is trained again
    again = choices.tuned(experiment, jobs=1)
    assert [choice.chosen for choice in again[1]] == [shared.chosen, own.chosen]
    assert before == {folder: (folder / "summary.json").read_text() for folder in before}


def test_a_score_where_less_is_better_chooses_the_least(home: Home, monkeypatch: pytest.MonkeyPatch):
    from stillhouse.tasks.classification import Classification

    monkeypatch.setattr(Classification, "score_mode", "min")
    shared = choices.tuned(planned(home, settings=None), jobs=1)[1][0]
    assert shared.chosen == min(shared.tried, key=lambda each: each[1])[0]
    assert len({mean for _, mean in shared.tried}) == 2


def test_pairs_are_corrected_for_their_number(home: Home):
    experiment = planned(home, pairs=[["one", "none"], ["narrow", "one"]], settings=None)
    values = {"none": [0.5, 0.6, 0.55], "one": [0.6, 0.69, 0.66], "narrow": [0.61, 0.7, 0.64]}
    groups = [Group(name, dict(enumerate(v))) for name, v in values.items()]
    found = page.compared_pairs(experiment, compare_groups("test/accuracy", groups))
    p = [stats.ttest_rel(values["one"], values["none"]).pvalue, stats.ttest_rel(values["narrow"], values["one"]).pvalue]
    assert [each[2].p for each in found] == pytest.approx(p)
    assert [each[3] for each in found] == pytest.approx([2 * p[0], p[1]]), "Holm: the smaller is doubled"
    lines = page.pair_lines(found)
    assert lines[2].endswith("] * | " + f"{found[0][2].detectable:.4f} |") is bool(2 * p[0] < 0.05)
    assert " * |" not in lines[3]
    assert "2 comparisons" in lines[-2]


def test_an_experiments_page_has_what_its_numbers_file_has(home: Home):
    (home.pages / "page.md").write_text("before\n<!-- results: plan -->\nold\n<!-- end -->\nafter\n")
    experiment = planned(home, tuning=None, arms=[PLAN["arms"][0], {"name": "one", "plugins": ["pair", LINEAR]}])
    failed = run_plan(experiment.plan)
    comparison = page.compared(experiment, failed)
    tried: list[Any] = [({"optimizer.lr": 0.01}, 0.5), ({"optimizer.lr": 0.02}, 0.6)]
    rate = Choice("all: none", True, "val/accuracy", (7,), tried, {"optimizer.lr": 0.02})
    page.write(home, experiment, comparison, [rate], [], 1, "the command")
    numbers = json.loads((home.results / "plan.json").read_text())
    text = (home.pages / "page.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    assert "Command: `the command`. Seeds 3 to 4. Machine: none. 8 runs, " in text
    for group in numbers["groups"]:
        assert group["against"] == {"none": "few: none" if group["name"].startswith("few") else "all: none"}
        assert f"| {group['name']} | 2 | {group['mean']:.4f} ± {group['deviation']:.4f} | " in text
    assert [pair["arm"] for pair in numbers["pairs"]] == ["few: one", "all: one"]
    assert (home.results / "plan.png").stat().st_size > 0
    report = (experiment.plan.folder / "report.html").read_text()
    assert 'id="differences"' in report
    for told in (
        "What was chosen before",
        "all: none, for all arms",
        "0.01: 0.5000; 0.02: 0.6000",
        "at the end of what was tried",
    ):
        assert told in report


def test_the_time_by_the_clock_is_told_where_all_of_it_was_measured(home: Home, monkeypatch: pytest.MonkeyPatch):
    written = home.pages / "page.md"
    written.write_text("<!-- results: plan -->\n<!-- end -->\n")
    save_plan(home, PLAN, settings=None, arms=PLAN["arms"][:2])

    def told(*more: str) -> float | None:
        assert main(["experiment", "plan", "--jobs", "1", *more]) == 0
        found = re.search(r"1 at a time: (\d+\.\d) minutes by the clock", written.read_text())
        return None if found is None else float(found[1])

    seconds = iter(range(0, 6000, 600))
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    assert told() == 10.0
    assert told() == 10.0, "it trained nothing"
    assert told("--seeds", "3") == 20.0
    Path("runs/experiments/plan/clock.json").unlink()
    assert told("--seeds", "4") is None


def test_teachers_that_recipes_train_are_told_with_what_they_reach(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STILLHOUSE_CACHE", str(Path("cache").resolve()))
    wide = tables(run__name="wide", teacher=None, student={"model": "support:TinyNet", "args": {"width": 6}})
    arm = {"name": "one", "plugins": ["pair", LINEAR], "teacher": {"recipe": wide}}
    experiment = planned(home, settings=None, tuning=None, arms=[PLAN["arms"][0], arm])
    assert teachers_line(experiment) == "", "not trained yet"
    prepare(experiment.plan.arms[1].recipe, write=False)
    (folder,) = (path for path in Path("cache/teachers").iterdir() if path.is_dir())
    reached = json.loads((folder / "summary.json").read_text())["metrics"]["test"]["accuracy"]
    assert teachers_line(experiment) == f"Teachers, on their own tasks: `wide` `test/accuracy` {reached:.4f}."


def test_data_sets_elsewhere_are_elsewhere_for_arms_probes_teachers_and_axes(home: Home, tmp_path: Path):
    few = {"name": "folder:~/datasets/pics", "per_class": 2}
    teacher = {"recipe": tables(data={"name": "folder:~/datasets/more"}, teacher=None)}
    arms = [
        {"name": "none", "plugins": []},
        {"name": "one", "plugins": ["pair", LINEAR], "teacher": teacher},
        {"name": "probe", "plugins": [], "probe": "body", "teacher": teacher},
    ]
    set_ = [f"data={{ name = '{few['name']}', per_class = 2 }}"]
    experiment = planned(home, settings=None, tuning=None, pairs=[], arms=arms, set=set_).with_data(tmp_path / "sets")
    for recipe in [
        *(arm.recipe for arm in experiment.plan.arms),
        experiment.plan.recipe,
        experiment.probes[0][0].recipe,
    ]:
        text = json.dumps(recipe.to_dict())
        assert "~/datasets" not in text
        assert f"folder:{tmp_path}/sets/pics" in text
    assert f"folder:{tmp_path}/sets/more" in json.dumps(experiment.probes[0][0].recipe.to_dict())
