"""The files of checkpoints: written whole, sealed, read without running code, refused with a reason."""

from __future__ import annotations

import pickle
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import FIVE, TinyNet, interrupted, recipe, same_state
from support.disks import full_disk

from stillhouse import Plugin, StillhouseError, hookimpl, load_student, plugin, prepare, train
from stillhouse.models.checkpoint_file import find_unreadable, write_checkpoint
from stillhouse.models.weights import find_last_checkpoint, load_weights, read_checkpoint


def last(run: Path) -> Path:
    found = find_last_checkpoint(run / "checkpoints")
    assert found is not None
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_checkpoints_load_with_weights_only_and_hold_no_teacher(tmp_path: Path):
    train(recipe(*FIVE.values(), schedule={"decay": "linear"}, checkpoints={"keep_every": 1}), out=tmp_path / "run")
    files = names(tmp_path / "run" / "checkpoints")
    assert [f for f in files if not f.startswith("best")] == ["epoch_3.pt", "epoch_6.pt", "last_6.pt"]
    assert len([f for f in files if f.startswith("best")]) == 1
    for name in files:
        torch.load(tmp_path / "run" / "checkpoints" / name, weights_only=True)
    saved = read_checkpoint(tmp_path / "run" / "checkpoints" / "last_6.pt", "")
    assert {"model", "optimizer", "scheduler", "trainer", "generators", "history"} <= set(saved)
    best = read_checkpoint(next((tmp_path / "run" / "checkpoints").glob("best_*.pt")), "")
    assert set(best) == {"model"}
    assert not any("teacher" in key for key in saved["model"])
    assert any(key.startswith("plugins.plugin_projector.") for key in saved["model"])


def when_written(monkeypatch: pytest.MonkeyPatch, do: Callable[[int], Any]) -> None:
    """Call ``do`` with the number of files written before, in whose context the next one is written."""
    count = iter(range(100))

    def write(path: Path, content: Any) -> None:
        with do(next(count)):
            write_checkpoint(path, content)

    monkeypatch.setattr("stillhouse.training.checkpoints.write_checkpoint", write)


def test_the_older_checkpoint_goes_only_after_the_newer_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[list[str]] = []

    def look(_number: int) -> Any:
        folder = tmp_path / "run" / "checkpoints"
        seen.append(names(folder) if folder.exists() else [])
        return full_disk(1 << 30)

    when_written(monkeypatch, look)
    train(recipe(checkpoints={"best": False}, run__epochs=3), out=tmp_path / "run")
    assert seen == [[], ["last_3.pt"], ["last_6.pt"]]
    assert names(tmp_path / "run" / "checkpoints") == ["last_9.pt"]


# The disk is full for TensorBoard's own thread as well, if it writes just then: that is told of, and ends nothing.
@pytest.mark.filterwarnings("ignore:TensorBoard's events cannot be written")
def test_a_full_disk_keeps_the_last_good_checkpoint_and_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    training = prepare(recipe(checkpoints={"best": False}), out=tmp_path / "run")
    when_written(monkeypatch, lambda number: full_disk(2000 if number == 1 else 1 << 30))
    with pytest.raises(StillhouseError) as caught:
        training.fit()
    (fault,) = caught.value.faults
    assert fault.what == "the checkpoint cannot be written: File too large"
    assert fault.hint == "last_3.pt is still there; make room and use --resume"
    assert names(tmp_path / "run" / "checkpoints") == ["last_3.pt"]
    whole = train(recipe(checkpoints={"best": False}), write=False)
    again = train(recipe(checkpoints={"best": False}), out=tmp_path / "run", resume=True)
    assert same_state(whole.student.state_dict(), again.student.state_dict())


@pytest.mark.filterwarnings("ignore:TensorBoard's events cannot be written")
def test_a_full_disk_at_the_first_checkpoint_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    when_written(monkeypatch, lambda _: full_disk(2000))
    with pytest.raises(StillhouseError, match=r"File too large .there is none yet: the run begins anew; make room"):
        train(recipe(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_model(path: Path) -> None:
    saved = torch.load(path, weights_only=True)
    saved["model"] = {f"student.{k}": v for k, v in TinyNet(width=5).state_dict().items()}
    write_checkpoint(path, saved)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cut, "is truncated, damaged or not a checkpoint"),
        (lambda p: p.write_bytes(b""), "is truncated, damaged or not a checkpoint"),
        (lambda p: p.write_bytes(b"hello"), "is truncated, damaged or not a checkpoint (delete it: the run goes on"),
        (flipped, "has changed since it was written: its checksum differs (delete it: the run goes on"),
        (
            lambda p: torch.save(torch.load(p, weights_only=True), p),
            "has no checksum: its end is damaged, or another version of Stillhouse wrote it (delete it",
        ),
        (
            other_model,
            "does not fit the model: other shapes: student.stem.weight: (5, 1, 3, 3) in the file, (4, 1, 3, 3) here",
        ),
        (lambda p: torch.save({"model": TinyNet()}, p), "has pickled objects, which are code, and is not loaded"),
        (
            lambda p: p.write_bytes(pickle.dumps({"model": {"weight": [1.0]}, "made": Path})),
            "has pickled objects, which are code, and is not loaded",
        ),
        (lambda p: torch.save([1], p), "must hold a dict of tensors, got list"),
        (lambda p: write_checkpoint(p, {"x": torch.zeros(1)}), "lacks model, optimizer"),
        (lambda p: write_checkpoint(p, {"format": 1}), "must be a checkpoint of format 2, got 1"),
    ],
    ids=[
        "cut",
        "empty",
        "text",
        "flipped",
        "unsealed",
        "another model",
        "pickle",
        "plain pickle",
        "list",
        "other table",
        "format",
    ],
)
def test_a_spoilt_checkpoint_is_refused_with_its_reason_and_left_as_it_is(spoil: Any, says: str, tmp_path: Path):
    train(recipe(), out=tmp_path / "run")
    path = last(tmp_path / "run")
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(StillhouseError) as caught:
        train(recipe(), out=tmp_path / "run", resume=True)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_no_flipped_bit_and_no_cut_goes_unseen_by_whoever_reads_the_file(tmp_path: Path):
    train(recipe(), out=tmp_path / "run")
    path = last(tmp_path / "run")
    whole, draw = path.read_bytes(), random.Random(0)
    places = [draw.randrange(len(whole)) for _ in range(40)] + list(range(len(whole) - 95, len(whole)))
    spoilt = [
        whole[: place - 1] + bytes([whole[place - 1] ^ 1 << draw.randrange(8)]) + whole[place:] for place in places
    ]
    spoilt += [whole[:place] for place in places]
    for content in spoilt:
        path.write_bytes(content)
        with pytest.raises(StillhouseError, match=r"checksum|truncated"):
            read_checkpoint(path, "")
    with pytest.raises(StillhouseError, match=r"checksum|truncated"):
        load_student(tmp_path / "run", weights="last")
    with pytest.raises(StillhouseError, match=r"checksum|truncated"):
        load_weights(TinyNet(), tmp_path / "run")
    path.write_bytes(whole)
    load_weights(TinyNet(), tmp_path / "run")


def test_somebody_elses_file_needs_no_seal(tmp_path: Path):
    torch.save(TinyNet().state_dict(), tmp_path / "theirs.pt")
    load_weights(TinyNet(), tmp_path / "theirs.pt")


# What could be written and never read ---------------------------------------------------------------------------------


class Keeping(TinyNet):
    """A student with a numpy scalar as its extra state, as quantisers have."""

    def get_extra_state(self) -> Any:
        return np.float64(3.0)

    def set_extra_state(self, state: Any) -> None:
        pass


class WithScalar(torch.optim.AdamW):
    """Keeps a numpy scalar for each parameter."""

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["trust"] = np.float64(1.0)
        return found


class WithDeque(torch.optim.AdamW):
    """Keeps a deque in each group."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group["history"] = deque(maxlen=3)


def test_a_modules_state_that_could_not_be_read_is_refused_before_the_first_step(tmp_path: Path):
    training = prepare(recipe(), student=Keeping(), out=tmp_path / "run")
    with pytest.raises(StillhouseError) as caught:
        training.fit()
    (fault,) = caught.value.faults
    assert fault.where == "checkpoints: model"
    assert (
        fault.what
        == "'student._extra_state' is a numpy.float64, and a checkpoint with it could be written but never read"
    )
    assert training.run.trainer.state.iteration == 0
    assert not (tmp_path / "run").exists()
    train(recipe(), student=Keeping(), write=False)  # which writes none


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("WithScalar", "'state.0.trust' is a numpy.float64"),
        ("WithDeque", "'param_groups[0].history' is a collections.deque"),
    ],
)
def test_an_optimizers_state_that_could_not_be_read_is_refused_after_the_first_step(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.optim, name, globals()[name], raising=False)
    monkeypatch.setitem(
        __import__("stillhouse.training.optimizers", fromlist=["_KNOWN"])._KNOWN, name.lower(), globals()[name]
    )
    training = prepare(recipe(optimizer={"name": name.lower()}), out=tmp_path / "run")
    with pytest.raises(StillhouseError) as caught:
        training.fit()
    assert says in caught.value.faults[0].what
    assert caught.value.faults[0].where == "checkpoints: optimizer"
    assert training.run.trainer.state.iteration <= 1
    assert not (tmp_path / "run").exists()


def test_a_state_that_becomes_unreadable_later_is_refused_before_a_file_is_written(tmp_path: Path):
    class Changing(TinyNet):
        kept: Any = 1.0

        def get_extra_state(self) -> Any:
            return self.kept

        def set_extra_state(self, state: Any) -> None:
            pass

    student = Changing()

    @plugin
    class Change(Plugin):
        """Puts something unreadable into the student's state in the second epoch."""

        @hookimpl
        def epoch_started(self, run):
            if run.trainer.state.epoch == 2:
                student.kept = {"inner": [slice(1)]}

    with pytest.raises(StillhouseError, match=r"'student\._extra_state\.inner\[0\]' is a slice"):
        train(recipe(), student=student, plugins=[Change()], out=tmp_path / "run")
    assert "last_3.pt" in names(tmp_path / "run" / "checkpoints")


def test_what_torch_reads_back_is_let_through():
    state = {
        "a": torch.zeros(2),
        "b": [1, 2.0, "c", None, True, b"d"],
        3: (torch.Size([1]), torch.float16),
        "e": {1, 2},
    }
    assert find_unreadable(state) == []


# The history ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_does_not_grow_with_the_epochs(tmp_path: Path):
    sizes = []
    for epochs in (2, 12):
        train(recipe(run__epochs=epochs), out=tmp_path / str(epochs))
        sizes.append(last(tmp_path / str(epochs)).stat().st_size)
        assert len((tmp_path / str(epochs) / "history.jsonl").read_text().splitlines()) == epochs
    assert sizes[0] == pytest.approx(sizes[1], abs=100)


def test_epochs_that_were_lost_with_a_killed_process_are_cut_off(tmp_path: Path):
    changes = {"run__epochs": 4, "checkpoints": {"every_steps": 1}}
    whole = train(recipe(**changes), out=tmp_path / "whole")
    interrupted(prepare(recipe(**changes), out=tmp_path / "run"), at=8)
    file = tmp_path / "run" / "history.jsonl"
    file.write_bytes(file.read_bytes() + b'{"accuracy": 1.0}\n{"accur')
    resumed = train(recipe(**changes), out=tmp_path / "run", resume=True)
    assert resumed.history == whole.history
    assert file.read_bytes() == (tmp_path / "whole" / "history.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: p.unlink(), "has 0 epochs, and the checkpoint has seen 1"),
        (lambda p: p.write_text('{"accuracy": 1.0}\n'), "has changed since it was written: its checksum differs"),
        (lambda p: p.write_bytes(b"\xff" * 9 + b"\n"), "has changed since it was written: its checksum differs"),
    ],
    ids=["gone", "changed", "no text"],
)
def test_a_history_that_is_not_the_runs_is_refused(spoil: Any, says: str, tmp_path: Path):
    interrupted(prepare(recipe(), out=tmp_path / "run"), at=4)
    spoil(tmp_path / "run" / "history.jsonl")
    with pytest.raises(StillhouseError) as caught:
        train(recipe(), out=tmp_path / "run", resume=True)
    assert f"{tmp_path / 'run' / 'history.jsonl'}: {says}" in str(caught.value)
