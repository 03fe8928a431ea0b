"""Two processes, each with its share of the samples, measure what one measures."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import torch
from support.forks import Fork
from support.task_processes import share


def test_the_metrics_of_two_processes_are_those_of_one(tmp_path: Path):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    running = [Fork("support.task_processes", str(tmp_path), **common, RANK=rank, LOCAL_RANK=rank) for rank in "01"]
    said = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    alone = share(0, 1)
    assert set(alone) == {"classification", "segmentation", "depth", "denoising", "multi-label", "regression"}
    for rank in range(2):
        together = json.loads((tmp_path / f"rank{rank}.json").read_text())
        for task, values in alone.items():
            for name, value in values.items():
                expected = torch.tensor(value, dtype=torch.float64)
                found = torch.tensor(together[task][name], dtype=torch.float64)
                assert torch.allclose(found, expected, rtol=1e-6, equal_nan=True), (task, name, found, expected)
