"""A hundred kills and a hundred pairs of runs that are started at once lose nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import TESTS


def disturbed(what: str, count: int, folder: Path) -> list[dict[str, object]]:
    script = TESTS / "support" / "crashes.py"
    done = subprocess.run(
        [sys.executable, str(script), what, str(count), "0", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing(tmp_path: Path):
    runs = disturbed("kills", 100, tmp_path)
    assert [run for run in runs if run["bad"]] == []


@pytest.mark.slow
def test_a_hundred_pairs_of_runs_started_at_once_lose_nothing(tmp_path: Path):
    runs = disturbed("pairs", 100, tmp_path)
    assert len(runs) == 100
    assert [run for run in runs if run["bad"]] == []
