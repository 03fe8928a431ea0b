"""`stillhouse export` on a disk that is full: one message, nothing half-written, and the process lives."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import recipe
from support.disks import full_disk

from stillhouse import StillhouseError, export, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train(recipe(run__epochs=1), out=folder)
    return folder


@pytest.mark.parametrize("name", ["s.safetensors", "s.pt2", "s.onnx"])
def test_a_full_disk_leaves_nothing(run: Path, tmp_path: Path, name: str) -> None:
    with full_disk(500), pytest.raises(StillhouseError, match=rf"{name}: cannot be written: File too large"):
        export(run, tmp_path / name, trust=True)
    assert not list(tmp_path.iterdir())
    export(run, tmp_path / name, trust=True)
    assert [file.name for file in tmp_path.iterdir()] == [name]
