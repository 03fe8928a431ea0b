"""When checkpoints are written: by time and by count, in a thread beside the training, and before whatever ends a run."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Events
from support import FIVE, Killed, interrupted, recipe, same_state
from torch import nn

from stillhouse import StillhouseError, StillhouseWarning, prepare, train
from stillhouse.models.checkpoint_file import write_checkpoint
from stillhouse.training import checkpoint_writer
from stillhouse.training.checkpoints import Checkpoints
from stillhouse.training.run_state import _copy_to_host

WRITE = "stillhouse.training.checkpoint_writer.write_checkpoint"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files in the order in which they are written."""
    names: list[str] = []

    def write(path: Path, content: Any) -> None:
        names.append(path.name)
        write_checkpoint(path, content)

    monkeypatch.setattr(WRITE, write)
    return names


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def last_of(written: list[str]) -> list[str]:
    return [name for name in written if name.startswith("last")]


def test_short_epochs_are_written_at_the_first_ones_end_and_at_the_runs(tmp_path: Path, written: list[str]):
    result = train(recipe(run__epochs=6), out=tmp_path / "run")
    assert last_of(written) == ["last_3.pt", "last_18.pt"]
    assert len(written) <= 4  # the best weights with each of them at most
    best = result.summary["best"]["epoch"]
    assert names(tmp_path / "run") == [f"best_{best * 3}.pt", "last_18.pt"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"every_seconds": 9.0},
            [3, 12, 21, 24],
        ),  # an epoch takes three: the first, each third after it, the run's end
        ({"every_seconds": 0}, [3, 6, 9, 12, 15, 18, 21, 24]),
        ({"every_steps": 6}, [3, 6, 12, 18, 24]),
        ({"every_steps": 5}, [3, 5, 10, 15, 20, 24]),
        ({"keep_every": 3}, [3, 9, 18, 24]),
    ],
)
def test_each_key_says_when_the_last_one_is_written(
    changes: dict[str, Any], expected: list[int], tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
):
    training = prepare(recipe(run__epochs=8, checkpoints=changes), out=tmp_path / "run")
    state = training.run.trainer.state
    clock = SimpleNamespace(monotonic=lambda: float(state.iteration))
    monkeypatch.setattr("stillhouse.training.checkpoints.time", clock)
    training.fit()
    assert last_of(written) == [f"last_{step}.pt" for step in expected]


def test_the_best_weights_are_those_of_their_epoch_whenever_they_are_written(tmp_path: Path):
    plugins = [FIVE["logits"]]
    for name, seconds in (("held", 100.0), ("each", 0.0)):
        changes = {"run__epochs": 6, "ema": {"decay": 0.5}, "checkpoints": {"every_seconds": seconds}}
        train(recipe(*plugins, **changes), out=tmp_path / name)
    assert names(tmp_path / "held") == names(tmp_path / "each")
    (held, each) = (next((tmp_path / name / "checkpoints").glob("best_*")) for name in ("held", "each"))
    found, wanted = (torch.load(path, weights_only=True) for path in (held, each))
    assert same_state(found["model"], wanted["model"])
    assert same_state(found["ema"]["weights"], wanted["ema"]["weights"])


@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
def test_an_error_and_ctrl_c_lose_no_epoch_that_had_ended(error: type[BaseException], tmp_path: Path):
    whole = train(recipe(run__epochs=5), write=False)
    training = prepare(recipe(run__epochs=5), out=tmp_path / "run")

    def stop() -> None:
        raise error

    training.run.trainer.add_event_handler(Events.ITERATION_STARTED(once=11), stop)
    with pytest.raises(error):
        training.fit()
    assert "last_9.pt" in names(tmp_path / "run")
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 3
    resumed = train(recipe(run__epochs=5), out=tmp_path / "run", resume=True)
    assert resumed.summary["resumed_at_step"] == 9
    assert same_state(whole.student.state_dict(), resumed.student.state_dict())
    assert resumed.history == whole.history


def test_a_kill_loses_what_was_held_and_the_run_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = train(recipe(run__epochs=5), out=tmp_path / "whole")
    monkeypatch.setattr(Checkpoints, "close", lambda _self: None)  # a kill lets nobody close anything
    interrupted(prepare(recipe(run__epochs=5), out=tmp_path / "run"), at=10)
    monkeypatch.undo()
    resumed = train(recipe(run__epochs=5), out=tmp_path / "run", resume=True)
    assert resumed.summary["resumed_at_step"] == 3
    assert same_state(whole.student.state_dict(), resumed.student.state_dict())
    assert resumed.history == whole.history
    assert names(tmp_path / "run") == names(tmp_path / "whole")


def test_a_run_that_somebody_ends_within_an_epoch_goes_on_from_there(tmp_path: Path):
    whole = train(recipe(run__epochs=3), write=False)
    training = prepare(recipe(run__epochs=3), out=tmp_path / "run")
    training.run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=7), training.run.trainer.terminate)
    training.fit()
    (tmp_path / "run" / "summary.json").unlink()
    resumed = train(recipe(run__epochs=3), out=tmp_path / "run", resume=True)
    assert resumed.summary["resumed_at_step"] == 7
    assert same_state(whole.student.state_dict(), resumed.student.state_dict())


# In a thread ----------------------------------------------------------------------------------------------------------

EACH = {"run__epochs": 2, "checkpoints": {"every_steps": 1, "best": False}}


def test_a_large_checkpoint_is_written_while_the_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train(recipe(), out=tmp_path / "whole")
    before = threading.enumerate()
    monkeypatch.setattr(checkpoint_writer, "SMALL", 0)
    training = prepare(recipe(**EACH), out=tmp_path / "run")
    later, seen = threading.Event(), {}
    training.run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), later.set)

    def write(path: Path, content: Any) -> None:
        assert threading.current_thread() is not threading.main_thread()
        if path.name == "last_4.pt":
            seen["went on"] = later.wait(timeout=60)  # until the next step is done
            seen["content"] = content
        write_checkpoint(path, content)

    monkeypatch.setattr(WRITE, write)
    training.fit()
    assert seen["went on"]
    assert seen["content"]["trainer"]["iteration"] == 4  # as it was when it was copied
    assert names(tmp_path / "run") == ["last_6.pt"]
    assert [thread for thread in threading.enumerate() if thread not in before] == []
    found, wanted = (
        torch.load(tmp_path / run / "checkpoints" / "last_6.pt", weights_only=True) for run in ("run", "whole")
    )
    assert same_state(found["model"], wanted["model"])


@pytest.mark.parametrize("name", ["last_4.pt", "last_6.pt"])
def test_what_the_thread_cannot_write_is_said_by_the_training(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checkpoint_writer, "SMALL", 0)

    def write(path: Path, content: Any) -> None:
        if path.name == name:
            raise OSError(28, "No space left on device")
        write_checkpoint(path, content)

    monkeypatch.setattr(WRITE, write)
    with pytest.raises(StillhouseError) as caught:
        train(recipe(**EACH), out=tmp_path / "run")
    (fault,) = caught.value.faults
    before = f"last_{int(name[5]) - 1}.pt"
    assert fault.what == "the checkpoint cannot be written: No space left on device"
    assert fault.hint == f"{before} is still there; make room and use --resume"
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_run_that_fails_says_of_what_it_held_that_it_could_not_be_written_and_fails_as_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def write(path: Path, content: Any) -> None:
        if path.name == "last_6.pt":
            raise OSError(28, "No space left on device")
        write_checkpoint(path, content)

    monkeypatch.setattr(WRITE, write)
    with pytest.warns(StillhouseWarning, match=r"No space left on device .*last_3.pt is still there"):
        interrupted(prepare(recipe(run__epochs=3, checkpoints={"best": False}), out=tmp_path / "run"), at=7)


def test_a_copy_shares_nothing_and_keeps_what_is_tied():
    weight = nn.Parameter(torch.randn(3, 2).t())
    state = {"a": weight, "b": weight, "list": [torch.ones(2), (1, "x")], "empty": torch.zeros(0), "view": weight[:1]}
    copied = _copy_to_host(state, {})
    weight.data.zero_()
    assert copied["a"] is copied["b"]
    assert copied["a"].abs().sum() > 0
    assert copied["a"].stride() == weight.stride()
    assert not copied["a"].requires_grad
    assert torch.equal(copied["view"], copied["a"][:1])
    assert copied["list"][1] == (1, "x")


def test_an_epoch_that_waits_for_the_one_before_to_be_written_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    begun, ended = threading.Event(), threading.Event()

    def write(path: Path, content: Any) -> None:
        if path.name == "last_6.pt":
            begun.set()
            ended.wait(60)
        write_checkpoint(path, content)

    monkeypatch.setattr(WRITE, write)
    monkeypatch.setattr(checkpoint_writer, "SMALL", 0)  # as if the files were large
    training = prepare(recipe(run__epochs=6, checkpoints={"every_seconds": 0, "best": False}), out=tmp_path / "run")
    checkpoints = training.observers.checkpoints
    assert checkpoints is not None
    wait = checkpoints._writer.wait

    def interrupted_wait() -> None:
        if begun.is_set() and not ended.is_set() and checkpoints._step == 9:
            ended.set()
            raise KeyboardInterrupt
        wait()

    monkeypatch.setattr(checkpoints._writer, "wait", interrupted_wait)
    with pytest.raises(KeyboardInterrupt):
        training.fit()
    assert names(tmp_path / "run") == ["last_9.pt"]
    assert train(training.recipe, out=tmp_path / "run", resume=True).summary["resumed_at_step"] == 9


@pytest.mark.filterwarnings("ignore:TensorBoard's events cannot be written", "ignore:the logger 'csv' failed")
def test_a_folder_that_was_moved_is_said_to_be_gone(tmp_path: Path):
    training = prepare(recipe(run__epochs=4, checkpoints={"every_seconds": 0}), out=tmp_path / "run")
    move = lambda: (tmp_path / "run").rename(tmp_path / "moved")  # noqa: E731
    training.run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=7), move)
    with pytest.raises(StillhouseError, match=r"run: the run's folder is gone: .*where it has been moved to: --resume"):
        training.fit()
