"""What makes samples of what the data give: the task, or nobody where they are taken as they are."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from stillhouse.contract.task import SampleMaker, Task
from stillhouse.errors import StillhouseError

__all__ = ["AsGiven", "check_taken", "choose_maker"]


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


def check_taken(task: SampleMaker | None, kind: str) -> None:
    """Refuse a task that takes no targets of ``kind``.

    Raises:
        StillhouseError: it does not.
    """
    if task is None or kind in task.takes:
        return
    name = type(task).__name__
    hint = "another task, or other data"
    if kind == "vector" and "class" in task.takes:
        hint = "a class is one whole number a sample: of one-hot targets their argmax; numbers are learnt by regression"
    raise StillhouseError(
        f"{name} needs targets of kind {' or '.join(map(repr, task.takes))}, got {kind!r}", where="task.name", hint=hint
    )


def choose_maker(task: SampleMaker | None, kind: str) -> SampleMaker | None:
    """Choose the maker of samples; None for unchanged inputs with class indices, the quickest case."""
    if task is None:
        return None if kind == "class" else AsGiven()
    own = any(getattr(type(task), name, None) is not getattr(Task, name) for name in ("sample", "collate"))
    return task if own or kind != "class" else None
