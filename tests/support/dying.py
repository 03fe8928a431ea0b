"""Data whose readers are killed, as the system does when memory runs out."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info


class Deadly(Dataset[Any]):
    """Images (1, 6, 6); a reader that is asked for the sample ``at`` is killed."""

    def __init__(self, n: int, at: int, number: int) -> None:
        self.n, self.at, self.number = n, at, number

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == self.at and get_worker_info() is not None:
            os.kill(os.getpid(), self.number)
        return torch.full((1, 6, 6), float(index)), index % 3


def deadly_data(at: int, number: int = int(signal.SIGKILL)) -> dict[str, Dataset[Any]]:
    """The splits of it."""
    return {"train": Deadly(24, at, number), "val": Deadly(9, -1, number), "test": Deadly(9, -1, number)}
