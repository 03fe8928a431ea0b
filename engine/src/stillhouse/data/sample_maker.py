"""What makes a sample's input and target of what the data gives: a task, or nothing."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

__all__ = ["AsGiven"]


@attrs.frozen
class AsGiven:
    """Makes samples where there is no task: inputs and targets as the data gives them."""

    takes: ClassVar[tuple[str, ...]] = ("class", "mask", "depth", "image", "vector", "boxes", "none")

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
        """See :meth:`stillhouse.tasks.Task.sample`."""
        return image, target

    def collate(self, targets: list[Any]) -> Any:
        """Tensors of one shape as one, numbers as int64, None as None, anything else as a list."""
        if targets[0] is None:
            return None
        if not isinstance(targets[0], Tensor | int):
            return targets
        return torch.stack([torch.as_tensor(t) for t in targets])
