"""Images of generated shapes with their masks, for tests of detection."""

from __future__ import annotations

import torch
from torch import Tensor


def shapes(times: int = 1, n: int = 4, size: int = 32) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Bright squares and dark bars on grey, with their masks; training sees each ``times`` an epoch."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for k in range(n):
        image, mask = torch.full((3, size, size), 0.5), torch.zeros(size, size, dtype=torch.uint8)
        y, x = torch.randint(1, size // 2 - 9, (2,), generator=generator).tolist()
        image[:, y : y + 8, x : x + 8], mask[y : y + 8, x : x + 8] = 1.0, 1
        if k % 2:
            image[:, size - 10 : size - 4, 4 : size - 4], mask[size - 10 : size - 4, 4 : size - 4] = 0.0, 2
        pairs.append((image + 0.02 * torch.randn(image.shape, generator=generator), mask))
    return {"train": pairs * times, "val": pairs}
