"""Pipes in the place of a run's files: they are no files, and nobody waits for them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stillhouse import StillhouseError, load_student
from stillhouse.config.recipe_file import read_tables
from stillhouse.config.stored import read_lock
from stillhouse.models.checkpoint_file import read_checkpoint
from stillhouse.models.weights import read_weights
from stillhouse.training.history import HistoryFile

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")


def read_history(path: Path) -> None:
    evaluation: Any = SimpleNamespace(history=[])
    HistoryFile(path.parent, evaluation).load_state_dict({"epochs": 1, "sha256": ""})


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("recipe.toml", read_tables),
        ("lock.json", read_lock),
        ("last_1.pt", lambda path: read_checkpoint(path, "")),
        ("history.jsonl", read_history),
        ("teacher.safetensors", read_weights),
        ("student.safetensors", load_student),
    ],
)
def test_no_file_of_a_run_is_waited_for(tmp_path: Path, name: str, read: Any):
    os.mkfifo(tmp_path / name)
    with pytest.raises(StillhouseError, match="it is a pipe or a device"):
        read(tmp_path / name)
