"""An ablation's workers: the same results, one that dies costs its run alone, and none is left behind."""

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
from support import FEATURES, FIVE, TESTS, recipe

from stillhouse import train
from stillhouse.data import samples
from stillhouse.experiments.ablation import ablate, make_plan, run_plan
from stillhouse.experiments.job import Job, Outcome
from stillhouse.experiments.plan_table import make_comparison
from stillhouse.experiments.workers import _run_jobs, can_fork

FAST = {"run__epochs": 1, "teacher__args": {"width": 4}}


def save(tmp_path: Path, *plugins: Any, **changes: Any) -> str:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe(*plugins, **changes).to_toml())
    return str(path)


def stamps(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("summary.json")}


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
    for module in ("ablation", "plan_runs"):
        monkeypatch.setattr(f"stillhouse.experiments.{module}.can_fork", lambda _recipes: fork)
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
    for module in ("ablation", "plan_runs"):
        monkeypatch.setattr(f"stillhouse.experiments.{module}.can_fork", lambda _recipes: True)
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


class Recorded:
    """A worker that is done with a job at once, and notes it."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.alive, self.done = True, list[int]()
        self.connection, self._other = multiprocessing.Pipe()

    def give(self, job: Job) -> None:
        self.job = job
        self.done.append(job.index)
        self._other.send(None)

    def take(self) -> Outcome:
        job, self.job = self.job, None
        assert job is not None
        self.connection.recv()
        return Outcome(job, {})

    def ask_to_end(self) -> None:
        self.connection.close()

    def end(self) -> None:
        self._other.close()


@pytest.mark.parametrize(("seconds", "shares"), [(60.0, [[0, 1, 2, 3], []]), (0.0, [[0, 2], [1, 3]])])
def test_one_worker_begins_alone_so_that_few_short_runs_warm_up_no_other(
    monkeypatch: pytest.MonkeyPatch, seconds: float, shares: list[list[int]]
):
    monkeypatch.setattr("stillhouse.experiments.workers._ALONE", seconds)
    made = [Recorded(), Recorded()]
    jobs = [Job(i, "full", i, "", {}) for i in range(4)]
    outcomes = list(_run_jobs(iter(jobs), made, 2))  # type: ignore[arg-type]
    assert [outcome.job.index for outcome in outcomes] == [0, 1, 2, 3]
    assert [worker.done for worker in made] == shares


def test_what_the_checks_have_read_is_there_in_forked_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read = samples.read_shaped

    def read_here(*what: Any) -> Any:
        assert multiprocessing.parent_process() is None
        return read(*what)

    monkeypatch.setattr(samples, "read_shaped", read_here)
    for module in ("ablation", "plan_runs"):
        monkeypatch.setattr(f"stillhouse.experiments.{module}.can_fork", lambda _recipes: True)
    assert ablate(recipe(FEATURES, **FAST), seeds=2, jobs=2, out=tmp_path / "a").missing == ()


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
