"""A task of a run with unlabelled samples: its loss counts the labelled ones."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from stillhouse.config.data import DataSpec
from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError
from stillhouse.nested import PartlyLabelled, list_tensors

__all__ = ["fit_task"]


def fit_task(task: Task, info: DataInfo, spec: DataSpec) -> Task:
    """``task`` as it is trained on data.

    Where ``spec`` has unlabelled samples, targets may be :class:`stillhouse.data.PartlyLabelled`: what the task says of a
    batch is of its labelled samples then.

    Args:
        task: as the recipe has it.
        info: what is known of the data.
        spec: the recipe's ``[data]``.

    Raises:
        StillhouseError: there are unlabelled samples, and the task calls its student in a way of its own, which might look at
            targets that mean nothing.
    """
    task = task.for_data(info)
    if not spec.has_unlabelled:
        return task
    kind = type(task)
    if kind.call is not Task.call and not kind.calls_labelled:
        raise StillhouseError(
            f"{kind.__name__} calls its student in a way of its own, and knows no unlabelled samples",
            where="task.name",
            hint='leave `unlabelled` and `pool` out of [data], or take [task] name = "distillation"',
        )
    # The fields, and so the layout, stay: a copy of the task can be made one of the subclass.
    made = type(kind.__name__, (_CountsLabelled, kind), {"__slots__": (), "__module__": kind.__module__})
    changed = copy.copy(task)
    object.__setattr__(changed, "__class__", made)
    return changed


class _CountsLabelled(Task):
    """What comes before a task's own methods: the rows that count are taken, where some do not."""

    __slots__ = ()

    def check(self, output: Any, targets: Any, data: DataInfo) -> None:
        """See :meth:`stillhouse.tasks.Task.check`."""
        super().check(*_select(output, targets), data)

    def loss(self, output: Any, targets: Any) -> Tensor:
        """See :meth:`stillhouse.tasks.Task.loss`; 0 where no sample is labelled."""
        if isinstance(targets, PartlyLabelled) and not targets.number:
            nothing: Tensor = sum((x.flatten()[:0].float().sum() for x in list_tensors(output)), torch.zeros(()))
            return nothing
        return super().loss(*_select(output, targets))

    def loss_by_sample(self, output: Any, targets: Any) -> tuple[Tensor, Tensor | None] | None:
        """See :meth:`stillhouse.tasks.Task.loss_by_sample`; 0 for unlabelled samples."""
        found = super().loss_by_sample(*_select(output, targets))
        if found is None or not isinstance(targets, PartlyLabelled):
            return found
        sums, count = found
        each = torch.cat([sums, sums.new_zeros(len(targets.labelled) - len(sums))])
        return each, sums.new_full((), float(len(sums))) if count is None else count

    def count(self, targets: Any) -> Tensor | None:
        """See :meth:`stillhouse.tasks.Task.count`; by default the number of labelled samples."""
        if not isinstance(targets, PartlyLabelled):
            return super().count(targets)
        found = super().count(targets.select(targets.values))
        if found is not None:
            return found
        like = list_tensors(targets.values)
        return torch.full((), float(targets.number), device=like[0].device if like else None)


def _select(output: Any, targets: Any) -> tuple[Any, Any]:
    return targets.select((output, targets.values)) if isinstance(targets, PartlyLabelled) else (output, targets)
