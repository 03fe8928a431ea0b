"""TensorBoard that cannot be written is told of once, and ends no run."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import recipe, same_state
from support.disks import full_disk
from torch.utils.tensorboard import SummaryWriter

from stillhouse import Plugin, StillhouseWarning, hookimpl, plugin, prepare, train
from stillhouse.models.checkpoint_file import write_checkpoint
from stillhouse.models.weights import find_last_checkpoint


@plugin
class InTheWay(Plugin):
    """Writes a file where TensorBoard's folder should be."""

    @hookimpl
    def started(self, run):
        (run.folder / "tensorboard").write_text("a file of somebody else's")


def refuse(*_arguments: Any, **_more: Any) -> None:
    raise OSError("No space left on device")


@pytest.mark.parametrize("fails", ["open", "add_text", "add_figure", "add_custom_scalars", "close"])
def test_it_is_told_of_once_and_ends_nothing(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = train(recipe(), write=False)
    drawn = recipe(run__figures=True)
    training = prepare(drawn, plugins=[InTheWay()] if fails == "open" else [], out=tmp_path / "run")
    if fails != "open":
        monkeypatch.setattr(SummaryWriter, fails, refuse)
    with pytest.warns(StillhouseWarning, match="TensorBoard's events cannot be written") as warned:
        result = training.fit()
    assert Counter(w.category for w in warned)[StillhouseWarning] == 1
    assert result.metrics == expected.metrics
    assert find_last_checkpoint(tmp_path / "run" / "checkpoints") is not None


def test_a_disk_that_is_full_for_its_own_thread_prints_no_traceback_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """All else of the run is written elsewhere: the thread alone meets the full disk, when it likes."""

    def write(path: Path, content: Any) -> None:
        with full_disk(1 << 30):
            write_checkpoint(path, content)

    expected = train(recipe(run__log_every=1), write=False)
    hook = threading.excepthook
    training = prepare(recipe(run__log_every=1, run__epochs=2, run__loggers=[]), out=tmp_path / "run")
    monkeypatch.setattr("stillhouse.training.checkpoint_writer.write_checkpoint", write)
    monkeypatch.setattr("stillhouse.training.session.write_json", lambda *_: None)
    monkeypatch.setattr("stillhouse.training.folder.write_json", lambda *_: None)
    monkeypatch.setattr("stillhouse.training.folder.write_text", lambda *_: None)
    with pytest.warns(StillhouseWarning, match="TensorBoard's events cannot be written"), full_disk(300):
        result = training.fit()
    assert same_state(expected.student.state_dict(), result.student.state_dict())
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook == hook
