"""Several processes that are signalled, or of which one is killed: all stop after one step, or say what has happened."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from support import TESTS, tables
from support.forks import Fork
from support.process_support import free_port

from stillhouse import Recipe
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.lost import explain_lost_process
from stillhouse.models.weights import find_last_checkpoint


def start(folder: Path) -> list[Fork]:
    """Two processes of one run, which lasts long, once they have a checkpoint."""
    run = {"name": "par", "epochs": 10_000, "device": "cpu", "log_every": 4, "base": str(TESTS), "threads": 1}
    made = Recipe.from_dict(
        tables(
            run=run,
            student={"model": "support.processes:PlainNet"},
            teacher=None,
            checkpoints={"every_steps": 1},
        )
    )
    (folder / "r.toml").write_text(made.to_toml())
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words = ["train", str(folder / "r.toml"), "--out", str(folder / "run"), "--quiet"]
    started = [Fork("stillhouse.cli", *words, **common, RANK=rank, LOCAL_RANK=rank) for rank in "01"]
    while all(p.returncode is None for p in started) and not list((folder / "run" / "checkpoints").glob("last_*.pt")):
        time.sleep(0.01)
    return started


def test_a_signal_to_one_or_all_stops_every_process_after_the_same_step(tmp_path: Path):
    one, two = start(tmp_path)
    two.send_signal(signal.SIGTERM)
    told = ["".join(process.communicate(timeout=120)) for process in (one, two)]
    assert [one.returncode, two.returncode] == [143, 143], told
    last = find_last_checkpoint(tmp_path / "run" / "checkpoints")
    assert last is not None
    step = last.stem.removeprefix("last_")
    for text, said_by in zip(told, ("", "rank 1: "), strict=True):
        (line,) = text.splitlines()
        assert line.startswith(
            f"{said_by}ended by SIGTERM: step {step} of 30000 is done, and its checkpoint written; go on"
        )


def test_who_is_left_when_the_system_kills_one_says_so_in_three_lines(tmp_path: Path):
    one, two = start(tmp_path)
    two.send_signal(signal.SIGKILL)
    told = "".join(one.communicate(timeout=120))
    two.communicate()
    assert one.returncode == 2, told
    lines = told.splitlines()
    assert len(lines) == 3, told
    assert lines[0].startswith("error: another process of this run has ended, or does not answer: ")
    assert "may have killed it for memory (lower data.batch_size = 8 or data.workers, or raise" in lines[1]
    assert lines[2] == "error: what was trained until the last checkpoint is kept (go on with --resume)"
    assert find_last_checkpoint(tmp_path / "run" / "checkpoints") is not None
    assert not (tmp_path / "run" / ".training.lock").exists()


def test_errors_of_anything_else_are_let_alone(monkeypatch: pytest.MonkeyPatch):
    assert explain_lost_process(RuntimeError("Connection closed by peer")) is None  # of no other process
    monkeypatch.setattr(parallel, "_joined", True)
    assert explain_lost_process(RuntimeError("shapes differ")) is None
    assert explain_lost_process(ValueError("Connection closed by peer")) is None
    assert explain_lost_process(RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:1")) is not None
    assert explain_lost_process(dist.DistBackendError("NCCL error")) is not None
