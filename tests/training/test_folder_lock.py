"""A run's folder belongs to one process at a time: who comes second is told who is there, and nothing of theirs is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Events
from support import Killed, interrupted, recipe, same_state

from stillhouse import Recipe, StillhouseError, prepare, train
from stillhouse.training import folder_lock
from stillhouse.training.folder_lock import FolderLock

HERE = f"process {os.getpid()} on host {socket.gethostname()} is training in this folder, since 20"
"""What a run in a folder of this process is refused with."""


def files(folder: Path) -> dict[str, bytes]:
    """What is in the folder, but for events, which a thread of the living run writes meanwhile."""
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.parent.name != "tensorboard"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def during(training: Any, step: int, do: Any) -> None:
    training.run.trainer.add_event_handler(Events.ITERATION_STARTED(once=step), do)


def test_of_two_runs_that_begin_at_once_one_trains_and_the_other_is_told_by_whom(tmp_path: Path):
    alone = train(recipe(run__seed=1), write=False)
    one = prepare(recipe(run__seed=1), out=tmp_path / "run")
    two = prepare(recipe(run__seed=2), out=tmp_path / "run")

    def second() -> None:
        before = files(tmp_path / "run")
        with pytest.raises(StillhouseError) as caught:
            two.fit()
        assert f"{tmp_path / 'run'}: {HERE}" in str(caught.value)
        assert "wait until it is done, or name another folder with --out" in str(caught.value)
        with pytest.raises(StillhouseError, match="is training in this folder"):
            prepare(recipe(run__seed=2), out=tmp_path / "run")  # before anything is read or trained for it
        assert files(tmp_path / "run") == before

    during(one, 5, second)
    result = one.fit()
    assert same_state(alone.student.state_dict(), result.student.state_dict())
    assert Recipe.load(tmp_path / "run" / "recipe.toml").run.seed == 1
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["seed"] == 1


def test_one_that_was_prepared_before_another_was_trained_there_is_refused_afterwards(tmp_path: Path):
    late = prepare(recipe(run__seed=2), out=tmp_path / "run")
    train(recipe(run__seed=1), out=tmp_path / "run")
    before = files(tmp_path / "run")
    with pytest.raises(StillhouseError, match="the run folder exists already"):
        late.fit()
    assert files(tmp_path / "run") == before


def test_a_run_is_not_resumed_beside_itself(tmp_path: Path):
    changes = {"checkpoints": {"every_steps": 1}, "run__epochs": 3}
    alone = train(recipe(**changes), write=False)
    one = prepare(recipe(**changes), out=tmp_path / "run")
    two: list[Any] = []

    def resume() -> None:
        (tmp_path / "run" / "checkpoints" / ".tmp-12345678-last_9.pt").write_text("the living run's")
        before = files(tmp_path / "run")
        with pytest.raises(StillhouseError, match="is training in this folder"):
            train(recipe(**changes), out=tmp_path / "run", resume=True)
        assert files(tmp_path / "run") == before

    during(one, 5, resume)
    assert two == []
    result = one.fit()
    assert same_state(alone.student.state_dict(), result.student.state_dict())


def test_of_two_that_resume_at_once_one_goes_on(tmp_path: Path):
    alone = train(recipe(checkpoints={"every_steps": 1}), out=tmp_path / "alone")
    made = recipe(checkpoints={"every_steps": 1})
    interrupted(prepare(made, out=tmp_path / "run"), at=4)
    one, two = (prepare(made, out=tmp_path / "run", resume=True) for _ in range(2))

    def second() -> None:
        with pytest.raises(StillhouseError, match="is training in this folder"):
            two.fit()

    during(one, 6, second)
    assert same_state(alone.student.state_dict(), one.fit().student.state_dict())
    assert (tmp_path / "run" / "history.jsonl").read_bytes() == (tmp_path / "alone" / "history.jsonl").read_bytes()


@pytest.mark.parametrize("ends", ["done", "killed", "refused"])
def test_nothing_is_left_of_the_lock_however_the_run_ends(ends: str, tmp_path: Path):
    training = prepare(recipe(), out=tmp_path / "run")

    def stop() -> None:
        assert (tmp_path / "run" / ".training.lock").exists()
        if ends != "done":
            raise Killed if ends == "killed" else StillhouseError("no")

    during(training, 2, stop)
    if ends == "done":
        training.fit()
    else:
        with pytest.raises((Killed, StillhouseError)):
            training.fit()
    assert list(tmp_path.rglob(".*")) == []
    assert (tmp_path / "run").exists() is (ends != "refused")
    train(recipe(), out=tmp_path / "run", resume=True)


def test_what_a_killed_process_left_of_its_lock_stands_in_nobodys_way(tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".training.lock", ".tmp-12345678-recipe.toml"):
        (folder / name).touch()
    (folder / ".training.json").write_text('{"process": 1, "host": "elsewhere"}')
    train(recipe(), out=folder)
    assert list(folder.rglob(".*")) == []


@pytest.mark.parametrize("owner", ["{}", "[]", "", '{"process": "x"}', None])
def test_an_owner_that_cannot_be_read_is_another_process(owner: str | None, tmp_path: Path):
    lock = FolderLock(tmp_path)
    lock.acquire()
    (tmp_path / ".training.json").unlink()
    if owner is not None:
        (tmp_path / ".training.json").write_text(owner)
    with pytest.raises(StillhouseError, match=r"(another process|process x on host None) is training in this folder"):
        FolderLock(tmp_path).acquire()
    lock.release()
    FolderLock(tmp_path).acquire()


def test_the_readers_of_a_killed_run_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They have the lock's file open for as long as they do not notice."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lock = FolderLock(tmp_path)
    lock.acquire()
    (tmp_path / ".training.json").write_text(json.dumps({"process": ended.pid, "host": socket.gethostname()}))
    waited: list[float] = []
    monkeypatch.setattr(folder_lock, "_WORKERS_END", 0.1)
    other = FolderLock(tmp_path)
    acquire = other._lock.acquire
    monkeypatch.setattr(other._lock, "acquire", lambda timeout: (waited.append(timeout), acquire(timeout=0.01))[1])
    with pytest.raises(StillhouseError, match=f"process {ended.pid} on host"):
        other.acquire()
    assert waited == [1.0, 0.1]
    lock.release()


def test_a_look_that_has_made_the_lock_anew_leaves_nothing_of_it(tmp_path: Path):
    lock = FolderLock(tmp_path)
    (tmp_path / ".training.lock").touch()  # as between the look whether it is there and the taking of it
    lock.check()
    assert list(tmp_path.iterdir()) == []
