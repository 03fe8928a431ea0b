"""Ablations as they run: nothing is trained twice, the table and picture are of the runs, bad input and failures are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import FEATURES, recipe

from stillhouse import train
from stillhouse.cli import main
from stillhouse.experiments import ablate
from stillhouse.experiments.ablation import make_plan
from stillhouse.experiments.comparison import Group, compare_groups
from stillhouse.experiments.picture import draw_ablation, write_picture
from stillhouse.experiments.plan_table import make_comparison

FAST = {"run__epochs": 1, "teacher__args": {"width": 4}}


def save(tmp_path: Path, *plugins: Any, **changes: Any) -> str:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe(*plugins, **changes).to_toml())
    return str(path)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished ablation of features and projector under two seeds."""
    folder = tmp_path_factory.mktemp("ablation")
    ablate(recipe(FEATURES, {"use": "projector"}, **FAST), seeds=2, out=folder / "runs")
    return folder / "runs"


def test_the_picture_has_both_curves_and_every_arms_difference_with_its_interval(done: Path, tmp_path: Path):
    plan, _ = make_plan(recipe(FEATURES, {"use": "projector"}, **FAST), seeds=2, out=done)
    comparison = make_comparison(plan)
    write_picture(tmp_path / "again.svg", comparison, plan)
    assert (tmp_path / "again.svg").read_bytes() == (done / "picture.svg").read_bytes()
    left, right = draw_ablation(
        comparison, {"none": {1: [0.4, 0.6], 3: [0.8]}, "full": {1: [0.9]}}, {"full": "all"}
    ).axes
    assert [line.get_xydata().tolist() for line in left.lines] == [[[1, 0.5], [3, 0.8]], [[1, 0.9]]]
    assert [text.get_text() for text in left.get_legend().texts] == [
        "alone, mean of 2: 0.8",
        "distilled, mean of 1: 0.9",
    ]
    found = {row.group.name: row.differences["none"] for row in comparison.rows if row.differences.get("none")}
    names = [text.get_text() for text in right.get_yticklabels()]
    assert set(names) == {"all", "only-features"}
    found["all"] = found.pop("full")
    assert [found[name].mean for name in names] == sorted(difference.mean for difference in found.values())
    ends = [list(line.get_xdata()) for line in right.lines[1:] if len(line.get_xdata()) == 2]
    assert ends == [[found[name].low, found[name].high] for name in names if found[name].low is not None]


def test_a_picture_of_one_seed_or_without_a_history_has_what_there_is():
    rows = [Group("none", {0: 0.5}), Group("full", {0: 0.75}, against={"none": "none"})]
    left, right = draw_ablation(compare_groups("test/accuracy", rows), {}, {}).axes
    assert not left.lines
    assert [list(line.get_xdata()) for line in right.lines] == [[0, 0], [0.25]]


def stamps(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("summary.json")}


def test_runs_are_those_of_train_and_the_table_is_of_them(done: Path):
    told = json.loads((done / "results.json").read_text())
    assert [group["name"] for group in told["groups"]] == ["none", "full", "only-features"]
    assert told["metric"] == "test/accuracy"
    assert told["missing"] == []
    values = {group["name"]: group["values"] for group in told["groups"]}
    own = train(recipe(FEATURES, {"use": "projector"}, **FAST, run__seed=4), write=False)
    assert values["full"][1] == own.metrics["test"]["accuracy"]
    difference = told["groups"][1]["differences"]["none"]
    assert difference["n"] == 2
    assert difference["mean"] == pytest.approx(
        sum(a - b for a, b in zip(values["full"], values["none"], strict=True)) / 2
    )
    assert "| none |" in (done / "table.md").read_text()
    for run in ("none/seed-3", "full/seed-4"):
        assert {"recipe.toml", "lock.json", "summary.json"} <= {p.name for p in (done / run).iterdir()}


def test_samples_are_read_once_for_all_runs_and_give_the_same_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import stillhouse.data.samples as samples

    read: list[int] = []
    shaped = samples.read_shaped
    monkeypatch.setattr(samples, "read_shaped", lambda source, shaping, i: read.append(i) or shaped(source, shaping, i))
    resized = {"data__per_class": 4, "data__size": 7}  # tensors of the right size are not read at all
    whole = recipe(FEATURES, **FAST, **resized)
    found = ablate(whole, seeds=3, out=tmp_path / "a")
    held_out = range(24, 42)  # validation and test, which every run measures on
    assert {i: read.count(i) for i in held_out} == dict.fromkeys(held_out, 1)
    read.clear()
    last = train(recipe(FEATURES, **FAST, **resized, run__seed=5), write=False)
    assert read.count(24) == 1, "outside an ablation nothing is kept"
    assert found.rows[1].group.values[5] == last.metrics["test"]["accuracy"]


def test_every_run_has_hparams(done: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for run in ("none", "full", "only-features"):
        events = EventAccumulator(str(done / run / "seed-3" / "tensorboard")).Reload()
        assert "_hparams_/session_start_info" in events.summary_metadata


def test_finished_runs_are_not_repeated_and_seeds_can_be_added(done: Path, capsys: pytest.CaptureFixture[str]):
    whole = recipe(FEATURES, {"use": "projector"}, **FAST)
    before = stamps(done)
    ablate(whole, seeds=2, out=done)
    assert stamps(done) == before
    found = ablate(whole, seeds=3, out=done, leave_one_out=True, progress=True)
    after = stamps(done)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {
        f"{arm}/seed-5/summary.json" for arm in ("none", "full", "without-projector")
    } | {f"without-projector/seed-{seed}/summary.json" for seed in (3, 4)}
    assert [len(row.group.values) for row in found.rows] == [3, 3, 3]
    assert "4 of 9 runs are finished already" in capsys.readouterr().err


def test_another_recipe_is_refused_in_an_ablations_folder(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before = (done / "ablation.json").read_bytes()
    path = save(tmp_path, FEATURES, {"use": "projector"}, **FAST)
    assert main(["ablate", path, "--out", str(done), "--set", "optimizer.lr=0.5", "--quiet"]) == 2
    text = capsys.readouterr().err
    assert "ablation.json: optimizer.lr must stay 0.01 as in this ablation's plan, got 0.5 (start another" in text
    assert (done / "ablation.json").read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for out, message in (
        (tmp_path / "full", "is not an ablation's folder"),
        (Path(path), "must be a folder, got a file"),
    ):
        assert main(["ablate", path, "--out", str(out), "--quiet"]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds: must be >= 1, got 0"),
        (["--jobs", "0"], "--jobs: must be >= 1, got 0"),
        (["--metric", "test/acuracy"], "did you mean 'test/accuracy'"),
        (["--only", "99"], "--only: must be 0 to"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = save(tmp_path, FEATURES, **FAST)
    assert main(["ablate", path, "--out", str(tmp_path / "a"), "--quiet", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_the_runs_can_be_listed_and_done_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, out = save(tmp_path, FEATURES, **FAST), str(tmp_path / "a")
    same = ["ablate", path, "--seeds", "2", "--out", out, "--quiet"]
    assert main([*same, "--list"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(run["index"], run["arm"], run["seed"], run["finished"]) for run in listed] == [
        (0, "none", 3, False),
        (1, "full", 3, False),
        (2, "none", 4, False),
        (3, "full", 4, False),
    ]
    assert not Path(out).exists()
    assert main([*same, "--only", "2"]) == 0
    assert list(stamps(Path(out))) == ["none/seed-4/summary.json"]
    assert main([*same, "--list"]) == 0
    assert [json.loads(line)["finished"] for line in capsys.readouterr().out.splitlines()] == [
        False,
        False,
        True,
        False,
    ]


def test_arms_that_are_one_run_keep_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, out = save(tmp_path, FEATURES, {"use": "projector"}, **FAST), str(tmp_path / "a")
    same = ["ablate", path, "--seeds", "2", "--out", out, "--quiet"]

    def list_numbers() -> dict[int, tuple[str, int]]:
        assert main([*same, "--list"]) == 0
        listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return {run["index"]: (run["arm"], run["seed"]) for run in listed}

    names = ["none", "full", "only-features", "only-projector", "without-features", "without-projector"]
    every = list_numbers()
    assert every == {i: (names[i % 6], 3 + i // 6) for i in range(12)}
    assert main([*same, "--only", "9"]) == 0
    assert "number 9 is nothing to train: the arm 'only-projector' is the same run as 'full'" in capsys.readouterr().err
    assert stamps(Path(out)) == {}
    assert main([*same, "--only", "8"]) == 0
    assert list(stamps(Path(out))) == ["only-features/seed-4/summary.json"]
    assert list_numbers() == {i: every[i] for i in (0, 1, 2, 6, 7, 8)}, "the folder knows by now what there is"


def test_a_list_says_what_names_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = save(tmp_path, {"use": "featurs"}, **FAST)
    assert main(["ablate", path, "--list"]) == 2
    assert "plugins[0].use: no installed plugin is called 'featurs' (did you mean 'features'" in capsys.readouterr().err
    for arguments, message in ((["--seeds", "0"], "--seeds: must be >= 1"), (["--grid", "x"], "must be KEY=VALUE")):
        assert main(["ablate", save(tmp_path, FEATURES, **FAST), "--list", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = save(tmp_path, FEATURES, **FAST)
    arguments = ["--seeds", "2", "--out", str(tmp_path / "a"), "--grid", "optimizer.lr=0.01,1e30", "--json"]
    assert main(["ablate", path, *arguments]) == 2
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert [(item["arm"], item["seed"]) for item in told["missing"]] == [
        ("optimizer.lr=1e30,none", 3),
        ("optimizer.lr=1e30,full", 3),
        ("optimizer.lr=1e30,none", 4),
        ("optimizer.lr=1e30,full", 4),
    ]
    assert "missing: optimizer.lr=1e30,full, seed 4: " in captured.err
    assert "finite" in captured.err
    assert [len(group["seeds"]) for group in told["groups"]] == [2, 2, 0, 0]
    report = tmp_path / "a" / "optimizer.lr=1e30,full" / "seed-4.error.txt"
    assert "StillhouseError" in report.read_text()
