"""Mean and covariance of rows that come batch by batch, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Moments"]


class Moments:
    """Count, mean and centred scatter of rows, merged batch by batch.

    Each batch is centred by itself and merged with what was seen before. Source: Chan, Golub and LeVeque 1983,
    *Algorithms for computing the sample variance*, their pairwise update. Summing squares instead would lose the
    variance where the mean is large, in float32 already at a mean of a few thousand standard deviations.

    Args:
        width: d, the rows' width.

    Attributes:
        count: rows seen.
        mean: (d,), float64, on the CPU.
        scatter: (d, d), float64, on the CPU: the sum of (x - mean)(x - mean)^T.
        square: the sum of all squares, not centred.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64)
        self.square = 0.0

    def add(self, rows: Tensor) -> None:
        """Take in rows (B, d) of any floating-point dtype, on any device; reads them back from the device once."""
        if len(rows) == 0:
            return
        # MPS has no float64.
        x = rows.detach().to(rows.device if rows.device.type in ("cpu", "cuda") else "cpu", torch.float64)
        mean = x.mean(0)
        centred = x - mean
        scatter = (centred.T @ centred).cpu()
        mean = mean.cpu()
        other, total = len(rows), self.count + len(rows)
        apart = mean - self.mean
        self.scatter += scatter
        self.scatter += torch.outer(apart, apart) * (self.count * other / total)
        self.mean += apart * (other / total)
        self.count = total
        self.square += float(scatter.diagonal().sum() + other * mean.square().sum())

    def merge(self, other: Moments) -> None:
        """Take in what ``other`` has seen."""
        if other.count == 0:
            return
        total = self.count + other.count
        apart = other.mean - self.mean
        self.scatter += other.scatter + torch.outer(apart, apart) * (self.count * other.count / total)
        self.mean += apart * (other.count / total)
        self.count = total
        self.square += other.square

    @property
    def covariance(self) -> Tensor:
        """(d, d), float64: the scatter by count - 1.

        Raises:
            ValueError: fewer than two rows have no covariance.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} rows have no covariance")
        return self.scatter / (self.count - 1)
