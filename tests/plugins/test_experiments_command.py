"""The command `stillhouse experiment`: where it finds plans and pages, and its figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import FEATURES, tables
from support.experiments import LINEAR, TINY, make_home, save_plan

from stillhouse.cli import main
from stillhouse_experiments import page
from stillhouse_experiments.figures import collapse, distance, maps, singular
from stillhouse_experiments.home import Home, locate

RECIPES = "stillhouse_experiments.recipes"
PLAN: dict[str, Any] = {
    **TINY,
    "arms": [{"name": "none", "plugins": []}, {"name": "one", "plugins": [FEATURES, LINEAR]}],
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    for module in (page, collapse, maps):
        monkeypatch.setattr(module, "machine", lambda: "none")
    home = make_home(tables())
    save_plan(home, PLAN)
    return home


def block(home: Home, name: str) -> Path:
    """A page with a place of that name."""
    path = home.folder / f"{name.replace(' ', '-')}.md"
    path.write_text(f"<!-- results: {name} -->\n<!-- end -->\n")
    return path


# --- where things are ------------------------------------------------------------------------------------------------


def test_its_help_imports_no_torch():
    script = "import sys, stillhouse.cli as c\ntry: c.main(['experiment', '--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "--figure" in done.stdout
    assert done.stdout.endswith("False\n")


def test_a_plan_is_found_by_name_by_folder_and_as_a_file(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert locate("plan", None, None) == (home.plans / "plan.toml", home)
    assert locate("plan", None, Path("there"))[1] == Home(home.folder, Path("there"))
    monkeypatch.chdir(home.plans)
    for name, folder in (("plan.toml", None), ("plan", tmp_path / home.folder)):
        path, found = locate(name, folder, None)
        assert path.samefile("plan.toml")
        assert found.pages.samefile(tmp_path / home.folder)
    Path("../loose.toml").write_text(Path("plan.toml").read_text())
    monkeypatch.chdir(tmp_path)
    assert locate("docs/experiments/loose.toml", None, None)[1].pages == home.folder


def test_what_is_not_there_is_named(home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def told(*words: str) -> str:
        assert main(["experiment", *words]) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return error

    assert "plane: docs/experiments/plans: unknown experiment 'plane' (did you mean 'plan'?)" in told("plane")
    assert "other.toml: there is no such plan" in told("other.toml")
    assert "--jobs: must be >= 1, got 0" in told("plan", "--jobs", "0")
    assert "--seeds: must be >= 1, got -1" in told("plan", "--seeds", "-1")
    for minutes in ("-1", "nan", "inf"):
        assert f"--minutes: must be finite and >= 0, got {minutes}" in told("plan", "--minutes", minutes)
    assert "--figure: is of one plan, got 2" in told("plan", "plan", "--figure", "axes")
    monkeypatch.chdir("docs")
    for words in (["plan"], [], ["--tier", "full"], ["--figure", "maps"]):
        assert "docs/experiments: there is no folder plans in it (call it where docs/experiments is" in told(*words)
    assert "nowhere: there is no folder plans in it" in told("--folder", "nowhere")
    assert not Path("runs").exists()


def test_the_list_is_of_all_plans(home: Home, capsys: pytest.CaptureFixture[str]):
    save_plan(home, PLAN).rename(home.plans / "another.toml")
    save_plan(home, PLAN)
    assert main(["experiment", "--list"]) == 0
    assert capsys.readouterr().out.split() == ["another", "plan"]


def test_pages_and_results_go_where_they_are_wanted(home: Home, capsys: pytest.CaptureFixture[str]):
    Path("there").mkdir()
    page = block(Home(Path("there"), Path("there")), "plan")
    own = block(home, "plan").read_text()
    assert main(["experiment", "plan", "--jobs", "1", "--pages", "there", "--set", "run.epochs=1"]) == 0
    text = page.read_text()
    assert (
        "Command: `stillhouse experiment plan --jobs 1 --set run.epochs=1`. Seeds 3 to 4. Machine: none. 4 runs" in text
    )
    assert capsys.readouterr().out.strip() in text
    assert {path.name for path in Path("there/results").iterdir()} == {"plan.json", "plan.png"}
    assert block(home, "plan").read_text() == own
    assert not (home.folder / "results").exists()


def test_a_plan_that_is_wrong_keeps_no_other_from_its_run(home: Home, capsys: pytest.CaptureFixture[str]):
    save_plan(home, PLAN, metrics=1).rename(home.plans / "bad.toml")
    save_plan(home, PLAN)
    assert main(["experiment", "bad", "plan", "--jobs", "1", "--set", "run.epochs=1"]) == 2
    assert "bad: docs/experiments/plans/bad.toml: metrics: unknown key 'metrics'" in capsys.readouterr().err
    assert (home.results / "plan.json").exists()


# --- figures ---------------------------------------------------------------------------------------------------------


def test_a_plans_figures_are_drawn_once_all_its_runs_are_there(home: Home, capsys: pytest.CaptureFixture[str]):
    look = [
        {"use": f"{RECIPES}.observers:Similarity", "name": "look"},
        {"use": f"{RECIPES}.observers:GradientCosines", "name": "angle", "every": 1},
    ]
    save_plan(
        home,
        PLAN,
        figures=["curves", "angles"],
        curves=[
            {"tag": "plugin/look/rank", "label": "effective rank"},
            {"tag": "plugin/look/gram_error", "label": "Gram"},
        ],
        arms=[PLAN["arms"][0], {"name": "one", "plugins": [FEATURES, LINEAR, *look]}],
    )
    curves, angles = block(home, "plan curves"), block(home, "plan angles")
    for name in ("curves", "angles"):
        assert main(["experiment", "plan", "--figure", name]) == 2
        error = f"figure '{name}': runs/experiments: there are no finished runs of plan yet (run it first"
        assert error in capsys.readouterr().err
    assert main(["experiment", "plan", "--jobs", "1", "--minutes", "0"]) == 0
    assert "Command" not in curves.read_text()
    assert main(["experiment", "plan", "--jobs", "1"]) == 0
    text = curves.read_text()
    assert "Command: `stillhouse experiment plan --figure curves`" in text
    assert re.search(r"^\| one \| [\d.e+-]+ ± [\d.e+-]+ \| [\d.e+-]+ ± [\d.e+-]+ \|$", text, re.MULTILINE)
    assert "| none |" not in text
    text = angles.read_text()
    assert "The arm 'one', 2 seeds." in text
    assert re.search(r"^\| task, features \| [+-]0\.\d{3} \[", text, re.MULTILINE)
    assert {path.name for path in home.results.iterdir()} == {
        *("plan.json", "plan.png", "plan-curves.png", "plan-angles.png"),
    }
    before = curves.read_text(), angles.read_text()
    curves.write_text("<!-- results: plan curves -->\n<!-- end -->\n")
    assert main(["experiment", "plan", "--figure", "curves"]) == 0
    assert (curves.read_text(), angles.read_text()) == before, "drawn of the runs that are there"


def test_the_cost_of_each_arm_stands_beside_its_mean_the_best_first(home: Home, capsys: pytest.CaptureFixture[str]):
    save_plan(home, PLAN, arms=[PLAN["arms"][0], {"name": "one", "plugins": [FEATURES, LINEAR]}])
    page = block(home, "plan cost")
    assert main(["experiment", "plan", "--figure", "cost"]) == 2
    assert "plan.json: is not there (run it first: stillhouse experiment plan)" in capsys.readouterr().err
    assert main(["experiment", "plan", "--jobs", "1"]) == 0
    assert main(["experiment", "plan", "--figure", "cost"]) == 0
    rows = re.findall(
        r"^\| (none|one) \| ([\d.]+) ± .* \| ([\d.]+) \| ([+-][\d.]+) \| ([\d.]+) \|$", page.read_text(), re.M
    )
    assert [float(row[1]) for row in rows] == sorted((float(row[1]) for row in rows), reverse=True)
    costs = {name: tuple(map(float, rest)) for name, _, *rest in rows}
    assert costs["none"] == (1.0, 0.0, 0.0)
    assert costs["one"][0] > 0


def test_singular_values_of_the_projected_side_are_told_for_every_arm(home: Home):
    look = f"{RECIPES}.singular_values:SingularValues"
    arms = [
        {"name": name, "plugins": [FEATURES, {**LINEAR, "side": side}, {"use": look, "side": side, "every": 2}]}
        for name, side in (("inverted", "teacher"), ("traditional", "student"))
    ]
    save_plan(
        home,
        PLAN,
        arms=[PLAN["arms"][0], *arms],
        settings=[{"name": "20 pairs", "set": ["run.epochs=1"]}],
        figures=["singular"],
    )
    page = block(home, "cross-singular")
    assert main(["experiment", "plan", "--jobs", "1"]) == 0
    text = page.read_text()
    assert (
        len(
            re.findall(r"^\| (?:inverted|traditional) \| (?:features before|P|features after P) \|", text, re.MULTILINE)
        )
        == 6
    )
    assert "| P | inverted | traditional |" in text
    numbers = json.loads((home.results / "cross-singular.json").read_text())
    assert {arm: [len(seed) for seed in keys["map"]] for arm, keys in numbers.items()} == {
        "inverted": [2, 2],
        "traditional": [2, 2],
    }
    assert singular.effective_rank([1.0, 1.0, 0.0]) == pytest.approx(2.0)
    assert singular.head([2.0, 1.0, 1.0], count=1) == pytest.approx(4 / 6)


def test_axes_are_counted_without_training_the_student(home: Home, capsys: pytest.CaptureFixture[str]):
    tcs = {"use": "tcs", "layer": "dropout"}
    arms = [PLAN["arms"][0], {"name": "tcs", "plugins": [tcs]}, {"name": "alike", "plugins": [{**tcs, "weight": 2.0}]}]
    save_plan(home, PLAN, arms=arms)
    page = block(home, "plan axes")
    assert main(["experiment", "plan", "--figure", "axes"]) == 0
    assert re.search(r"^\| tcs; alike \| \d+ \| \d+\.\d% \|$", page.read_text(), re.MULTILINE)
    assert not Path("runs").exists()
    save_plan(home, PLAN)
    assert main(["experiment", "plan", "--figure", "axes"]) == 2
    assert "no arm has the plugin tcs with a path" in capsys.readouterr().err


def test_a_distance_is_0_for_the_same_task_and_1_for_what_a_random_teacher_knows():
    generator = np.random.default_rng(0)
    same, random = 0.9 + 0.01 * generator.random(distance.DRAWS), 0.5 + 0.01 * generator.random(distance.DRAWS)
    assert distance.distance(same, same, random) == pytest.approx((0, 0, 0))
    assert distance.distance(random, same, random) == pytest.approx((1, 1, 1))
    middle, low, high = distance.distance((same + random) / 2, same, random)
    assert low <= middle <= high
    assert middle == pytest.approx(0.5)


def test_the_gain_is_drawn_against_the_distance(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distance, "DRAWS", 2)
    digits = {"name": f"{RECIPES}.relabelled_digits:digits", "batch_size": 32}
    convnet = {"model": "stillhouse.models:convnet", "args": {"width": 4}}
    (home.plans / "recipes" / "tiny.toml").write_text(
        f'run = {{ name = "tiny", epochs = 1 }}\ndata = {{ name = "{digits["name"]}" }}\n'
        f'student = {{ model = "{convnet["model"]}", args = {{ width = 4 }} }}\n'
    )
    links = {"use": "features", "links": [{"student": "stage3", "teacher": "stage3", "pool": "mean"}]}
    arms = [
        {
            "name": f"{kind}, {task}",
            "teacher": {"model": convnet["model"], "args": {"width": width}, "random": True},
            "plugins": [links, {**LINEAR, "side": side}],
        }
        for task, width in (("same task", 32), ("untrained", 2))
        for kind, side in (("inverted", "teacher"), ("traditional", "student"))
    ]
    save_plan(home, PLAN, arms=[PLAN["arms"][0], *arms])
    drawn = ["experiment", "plan", "--figure", "distance"]
    assert main(drawn) == 2, "there are no gains yet"
    gain = {"mean": 0.01, "low": -0.01, "high": 0.03}
    groups = [{"name": "none", "differences": {"none": None}}]
    groups += [{"name": arm["name"], "differences": {"none": gain}} for arm in arms]
    (home.results / "plan.json").write_text(json.dumps({"groups": groups}))
    page = block(home, "plan-curve")
    assert main(drawn) == 0
    assert re.search(
        r"^\| same task \| 0\.\d{3} ± .* \| -?0\.00 \[.*\] \| \+0\.0100 \| \+0\.0100 \|$", page.read_text(), re.M
    )
    assert re.search(
        r"^\| untrained \| 0\.\d{3} ± .* \| 1\.00 \[.*\] \| \+0\.0100 \| \+0\.0100 \|$", page.read_text(), re.M
    )
    assert (home.results / "plan-curve.png").stat().st_size > 0


def test_figures_of_no_plan_are_drawn_alone(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(collapse, "STEPS", 3)
    monkeypatch.setattr(maps, "STEPS", 2)
    monkeypatch.setattr(maps, "SIZES", ((4, 6),))
    pages = {name: block(home, name) for name in ("collapse", "maps")}
    for name, path in pages.items():
        assert main(["experiment", "--figure", name]) == 0
        assert f"Command: `stillhouse experiment --figure {name}`" in path.read_text()
    assert pages["collapse"].read_text().count("\n| ") == 4
    assert pages["maps"].read_text().count("\n| 4 to 6 | ") == 4
    for name in ("angles", "axes", "curves", "distance", "singular"):
        assert main(["experiment", "--figure", name]) == 2
        assert f"figure '{name}': this figure is drawn of an experiment's runs" in capsys.readouterr().err


def test_torchdistill_is_asked_for_where_it_is_missing(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "torchdistill", None)
    assert main(["experiment", "--figure", "torchdistill"]) == 2
    assert "(pip install --no-deps torchdistill)" in capsys.readouterr().err
