"""Ablations: which arms there are and why, that seeds are paired, that nothing is trained twice, and bad input."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support import FEATURES, FIVE, TESTS, recipe, same_state

from stillhouse import Recipe, StillhouseError, StillhouseWarning, prepare, train
from stillhouse.cli import main
from stillhouse.experiments import ablate
from stillhouse.experiments.ablation import make_plan, run_plan
from stillhouse.experiments.arms import hash_arm, make_arms, resolve
from stillhouse.experiments.comparison import Group, compare_groups
from stillhouse.experiments.grid import make_cells, parse_grid
from stillhouse.experiments.picture import draw_ablation, write_picture
from stillhouse.experiments.plan_table import make_comparison
from stillhouse.experiments.workers import can_fork

FAST = {"run__epochs": 1, "teacher__args": {"width": 4}}


def arms_of(whole: Recipe, **options: Any) -> dict[str, Any]:
    made = make_arms(resolve(whole), **{"leave_one_out": True, "one_at_a_time": True, **options})
    return {arm.name: arm for arm in made}


def test_each_plugin_is_left_out_with_those_that_require_it_and_run_with_those_it_requires():
    arms = arms_of(recipe(*FIVE.values()))
    lists = {name: list(arm.plugins) for name, arm in arms.items()}
    assert lists == {
        "none": [],
        "full": ["features", "normalizer", "projector", "spectral", "logits"],
        "only-features": ["features"],
        "only-normalizer": ["features", "normalizer"],
        "only-projector": ["features", "projector"],
        "only-spectral": ["spectral"],
        "only-logits": ["logits"],
        "without-features": ["spectral", "logits"],
        "without-normalizer": ["features", "projector", "spectral", "logits"],
        "without-projector": ["features", "normalizer", "spectral", "logits"],
        "without-spectral": ["features", "normalizer", "projector", "logits"],
        "without-logits": ["features", "normalizer", "projector", "spectral"],
    }
    assert arms["without-features"].reason == (
        "without normalizer, projector too: normalizer requires links; projector requires links"
    )
    assert arms["only-projector"].reason == "with features: projector requires links"
    assert arms["without-logits"].reason == ""


def test_arms_that_are_the_same_run_are_one():
    arms = arms_of(recipe(FEATURES, {"use": "projector"}))
    assert list(arms) == ["none", "full", "only-features"]
    assert arms["none"].also == ("without-features (without projector too: projector requires links)",)
    assert arms["full"].also == ("only-projector (with features: projector requires links)",)
    assert arms["only-features"].also == ("without-projector",)
    assert [arm.name for arm in make_arms(resolve(recipe()), leave_one_out=True, one_at_a_time=True)] == ["none"]


def test_what_a_plugin_needs_without_saying_so_shows_when_the_arm_is_built(tmp_path: Path):
    """Features of two widths have no distance without a projector."""
    whole = recipe(FEATURES, {"use": "projector"}, {"use": "logits"}, run__epochs=1)
    plan, _ = make_plan(whole, seeds=1, out=tmp_path / "runs")
    arms = {arm.name: arm for arm in plan.arms}
    assert list(arms) == ["none", "full", "only-features", "only-logits"]
    assert arms["only-features"].plugins == ("features", "projector")
    assert arms["only-features"].reason.startswith(
        "with projector: features: student and teacher features must have one shape"
    )
    assert "without-logits" in arms["only-features"].also
    assert any(
        name.startswith("without-projector (without features too: features: ") for name in arms["only-logits"].also
    )
    assert not (tmp_path / "runs").exists()


def test_an_arm_that_cannot_be_built_is_left_out_with_a_warning():
    def check(tried: Recipe) -> None:
        if len(tried.plugins) == 1:
            raise StillhouseError("is not enough", where="student")

    with pytest.warns(StillhouseWarning, match="the arm 'without .*' cannot be built and is left out") as told:
        arms = arms_of(recipe(FIVE["spectral"], FIVE["logits"]), check=check, one_at_a_time=False)
    assert list(arms) == ["none", "full"]
    assert len(told) == 2


def test_pairs_share_subset_order_and_the_students_start(tmp_path: Path):
    whole = recipe(*FIVE.values(), data__per_class=4)
    plan, _ = make_plan(whole, seeds=2, out=tmp_path)
    seen: dict[int, list[Any]] = {}
    for run in plan.runs():
        if run.arm in ("none", "full", "without-features", "only-spectral"):
            training = prepare(run.recipe, write=False)
            stream = training.data.training()
            ids = torch.cat([next(stream).id for _ in range(6)])
            start = {k: v.clone() for k, v in training.run.student.state_dict().items()}
            training.close()
            seen.setdefault(run.seed, []).append((ids, start))
    assert list(seen) == [3, 4]
    for members in seen.values():
        assert len(members) == 4
        for ids, start in members[1:]:
            assert torch.equal(ids, members[0][0])
            assert same_state(start, members[0][1])
    assert not torch.equal(seen[3][0][0], seen[4][0][0])
    assert not same_state(seen[3][0][1], seen[4][0][1])


def test_grids_are_the_full_product():
    whole = recipe(*FIVE.values())
    axes = parse_grid(
        ["projector.kind=linear,orthogonal", "plugins.spectral.rank=1,2", "data.size=[8,8],[6, 6]"], whole
    )
    assert [axis.key for axis in axes] == ["plugins.projector.kind", "plugins.spectral.rank", "data.size"]
    assert axes[2].values == ("[8,8]", "[6, 6]")
    assert len(make_cells(axes)) == 8
    assert make_cells(axes)[1] == {
        "plugins.projector.kind": "linear",
        "plugins.spectral.rank": "1",
        "data.size": "[6, 6]",
    }


def test_cells_vary_the_full_list_and_other_settings_have_their_own_baselines():
    whole = recipe(*FIVE.values())
    axes = parse_grid(["spectral.rank=1,2", "data.per_class=2,4"], whole)
    arms = arms_of(whole, leave_one_out=False, one_at_a_time=False, axes=axes)
    assert list(arms) == [
        "data.per_class=2,none",
        "data.per_class=2,full",
        "data.per_class=2,spectral.rank=1",
        "data.per_class=4,none",
        "data.per_class=4,full",
        "data.per_class=4,spectral.rank=1",
    ]
    assert arms["data.per_class=4,full"].also == ("spectral.rank=2",)
    cell = arms["data.per_class=4,spectral.rank=1"]
    assert cell.recipe.data.per_class == 4
    assert next(p for p in cell.recipe.plugins if p["use"] == "spectral")["rank"] == 1
    assert cell.group == "data.per_class=4"


def test_bad_grids_are_named_all_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    path = save(tmp_path, *FIVE.values())
    grid = ["--grid", "projector.kind", "run.seed=1,2", "projektor.kind=linear", "optimizer.lr=1e-3,"]
    assert main(["ablate", path, "--seeds", "2", "--out", str(tmp_path / "a"), *grid]) == 2
    text = capsys.readouterr().err
    assert "must be KEY=VALUE,VALUE,..., got 'projector.kind'" in text
    assert "--grid run.seed: must not be the seed, by which runs are paired" in text
    assert "unknown table or plugin 'projektor' (did you mean 'projector'?)" in text
    assert "must be KEY=VALUE,VALUE,..., got 'optimizer.lr=1e-3,'" in text
    grid = ["--grid", "projector.kind=linear,straight", "optimizer.lr=1e-3,-1"]
    assert main(["ablate", path, "--seeds", "2", "--out", str(tmp_path / "a"), *grid]) == 2
    text = capsys.readouterr().err
    assert "error: --grid projector.kind=straight: plugins[2].kind (projector): must be one of" in text
    assert "error: --grid optimizer.lr=-1: optimizer.lr: must be > 0, got -1.0" in text
    assert text.count("error: ") == 2
    assert not (tmp_path / "a").exists()


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
    whole = recipe(FEATURES, **FAST, data__per_class=4)
    found = ablate(whole, seeds=3, out=tmp_path / "a")
    held_out = range(24, 42)  # validation and test, which every run measures on
    assert {i: read.count(i) for i in held_out} == dict.fromkeys(held_out, 1)
    read.clear()
    last = train(recipe(FEATURES, **FAST, data__per_class=4, run__seed=5), write=False)
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


DEADLY = """
import multiprocessing, os, signal
from support import TinyNet

def model(num_classes, width=4, deadly=False):
    if deadly and multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return TinyNet(num_classes, width=width)
"""


@pytest.mark.parametrize("fork", [True, False])
def test_workers_give_the_same_results_and_one_that_dies_costs_its_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fork: bool
):
    monkeypatch.setattr("stillhouse.experiments.ablation.can_fork", lambda _recipes: fork)
    (tmp_path / "deadly_model.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(str(tmp_path))
    whole = recipe(FEATURES, **FAST, student={"model": "deadly_model:model"})
    grid = ["student.args.deadly=false,true"]
    plan, _ = make_plan(whole, seeds=2, grid=grid, out=tmp_path / "a")
    failed = run_plan(plan, jobs=2, only=[1, 2])  # the second dies
    assert set(failed) == {2}
    assert "the worker process died (killed by SIGKILL): was there enough memory?" in failed[2]
    assert multiprocessing.active_children() == []
    found = make_comparison(plan, failed=failed)
    assert [item["error"] for item in found.missing].count(failed[2]) == 1
    run = plan.runs()[1]
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["metrics"] == train(run.recipe, write=False).metrics


def test_runs_left_when_every_forked_worker_has_died_are_trained_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "deadly_model.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("stillhouse.experiments.ablation.can_fork", lambda _recipes: True)
    whole = recipe(FEATURES, **FAST, student={"model": "deadly_model:model"})
    plan, _ = make_plan(whole, seeds=2, grid=["student.args.deadly=true,false"], out=tmp_path / "a")
    deadly = [run.index for run in plan.runs() if run.recipe.student.args["deadly"]]
    sound = [run.index for run in plan.runs() if not run.recipe.student.args["deadly"]]
    failed = run_plan(plan, jobs=2, only=[*deadly[:2], sound[-1]])
    assert set(failed) == set(deadly[:2])
    assert plan.runs()[sound[-1]].summary() is not None


def test_only_runs_of_one_thread_on_a_cpu_are_trained_in_forks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("threading.active_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    one, two = recipe(run__threads=1), recipe(run__threads=2)
    assert can_fork([one, one]) == (sys.platform == "linux")
    assert not can_fork([one, two])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert not can_fork([one])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("threading.active_count", lambda: 2)
    assert not can_fork([one])


def test_identity_is_all_but_the_seed():
    assert hash_arm(recipe(run__seed=1)) == hash_arm(recipe(run__seed=2))
    assert hash_arm(recipe(run__epochs=1)) != hash_arm(recipe(run__epochs=2))


def children_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_ablation_leaves_no_worker_and_goes_on(tmp_path: Path, how: signal.Signals):
    path, out = save(tmp_path, *FIVE.values(), run__epochs=40), tmp_path / "a"
    words = [sys.executable, "-m", "stillhouse.cli", "ablate", path, "--seeds", "2", "--out", str(out), "--jobs", "2"]
    quiet = {"cwd": TESTS, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words, **quiet, start_new_session=True)
    while len(stamps(out) if out.exists() else {}) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    workers = children_of(process.pid)
    assert len(workers) == 2
    if how == signal.SIGINT:
        os.killpg(process.pid, how)
        assert process.wait(20) == 130
    else:
        process.kill()
        process.wait(20)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{p}/cmdline").exists() and Path(f"/proc/{p}/cmdline").read_text() for p in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = stamps(out)
    again = subprocess.run([*words, "--quiet"], cwd=TESTS, check=False, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    after = stamps(out)
    assert len(after) == 2 * len(json.loads((out / "ablation.json").read_text())["arms"])
    assert {name: after[name] for name in before} == before
