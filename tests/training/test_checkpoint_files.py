"""The files of checkpoints: written whole, sealed, read without running code, refused with a reason."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import FIVE, TinyNet, recipe, same_state
from support.disks import full_disk

from stillhouse import StillhouseError, load_student, prepare, train
from stillhouse.models.checkpoint_file import write_checkpoint
from stillhouse.models.state_dicts import Choice
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

    monkeypatch.setattr("stillhouse.training.checkpoint_writer.write_checkpoint", write)


def test_the_older_checkpoint_goes_only_after_the_newer_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[list[str]] = []

    def look(_number: int) -> Any:
        folder = tmp_path / "run" / "checkpoints"
        seen.append(names(folder) if folder.exists() else [])
        return full_disk(1 << 30)

    when_written(monkeypatch, look)
    train(recipe(checkpoints={"best": False, "every_seconds": 0}, run__epochs=3), out=tmp_path / "run")
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
        load_weights(TinyNet(), tmp_path / "run", Choice(weights="last"))
    path.write_bytes(whole)
    load_weights(TinyNet(), tmp_path / "run", Choice(weights="last"))


def test_somebody_elses_file_needs_no_seal(tmp_path: Path):
    torch.save(TinyNet().state_dict(), tmp_path / "theirs.pt")
    load_weights(TinyNet(), tmp_path / "theirs.pt")
