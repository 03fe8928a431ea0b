"""What test_metrics_of_processes starts twice: each process measures its share, and the first writes what all found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from torch import Tensor

from stillhouse.data import DataInfo
from stillhouse.tasks import Task, TaskSpec, build_task
from support.task_support import info, measured

N = 9  # which two cannot share evenly


def cases() -> dict[str, tuple[Task, DataInfo, Tensor, Tensor]]:
    """Each task with outputs and targets of 9 samples."""
    g = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g)

    masks = torch.randint(0, 3, (N, 6, 7), generator=g)
    masks[rand(N, 6, 7) < 0.2] = 255
    depths = rand(N, 1, 6, 7) + 0.5
    depths[rand(N, 1, 6, 7) < 0.2] = 0
    numbers = info(3, "vector", target_shape=(3,))
    found: dict[str, Any] = {
        "classification": ({}, info(3, "class"), rand(N, 3), torch.randint(0, 3, (N,), generator=g)),
        "segmentation": ({}, info(3), rand(N, 3, 6, 7), masks),
        "depth": ({}, info(0, "depth"), rand(N, 1, 6, 7), depths),
        "denoising": ({}, info(0, "none"), rand(N, 3, 8, 8), rand(N, 3, 8, 8)),
        "multi-label": ({}, numbers, rand(N, 3) - 0.5, (rand(N, 3) > 0.5).float()),
        "regression": ({}, numbers, rand(N, 3), rand(N, 3)),
    }
    return {name: (build_task(TaskSpec(name=name, args=args)), *rest) for name, (args, *rest) in found.items()}


def numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Metrics as plain data."""
    return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in values.items()}


def share(rank: int, world: int) -> dict[str, Any]:
    """The metrics, this process having seen every ``world``-th sample from ``rank`` on, in batches of 2."""
    return {
        name: numbers(measured(task, data, *zip(x[rank::world].split(2), y[rank::world].split(2), strict=True)))
        for name, (task, data, x, y) in cases().items()
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    idist.initialize("gloo")
    result = share(idist.get_rank(), idist.get_world_size())
    Path(sys.argv[1]).joinpath(f"rank{idist.get_rank()}.json").write_text(json.dumps(result))
    idist.finalize()
