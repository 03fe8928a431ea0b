"""The learning rate's schedule, one step of it after each step of the optimizer."""

from __future__ import annotations

from torch.optim.lr_scheduler import LRScheduler

from stillhouse.contract.hookspecs import hookimpl

__all__ = ["LearningRate"]


class LearningRate:
    """Moves the schedule on.

    Args:
        scheduler: torch's, which sets the rate in the optimizer's parameter groups; part of the checkpoint.
    """

    name = "learning rate"

    def __init__(self, scheduler: LRScheduler) -> None:
        self.scheduler = scheduler

    @hookimpl
    def iteration_completed(self) -> None:
        """The step has been logged with the rate that it had."""
        self.scheduler.step()
