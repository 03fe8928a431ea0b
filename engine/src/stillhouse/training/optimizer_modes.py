"""Optimizers with a train and an eval mode, as schedule-free ones have: they train other weights than are to be measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stillhouse.contract.hookspecs import hookimpl
from stillhouse.distributed.fsdp import gather_tensors

__all__ = ["OptimizerModes", "has_modes"]


def has_modes(optimizer: Optimizer) -> bool:
    """Whether it has the methods ``train`` and ``eval``, which no optimizer of torch's own has."""
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


class OptimizerModes:
    """The student's weights as such an optimizer has them in eval mode: what the run measures, and gives.

    It takes the place of an average that is kept beside the training (:class:`stillhouse.training.ema.AveragedWeights`) and
    has its methods. The weights that are trained come back bit for bit after they were measured: going to the others and back
    would round, and a run would depend on how often it is measured.

    Args:
        optimizer: with modes.
        student: whose weights; plugins' modules are in the other mode as well while something is measured.
    """

    name = "optimizer modes"
    instead = True

    def __init__(self, optimizer: Any, student: nn.Module) -> None:
        self._optimizer, self._student = optimizer, student

    @hookimpl
    def started(self) -> None:
        """Train from now on."""
        self._optimizer.train()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the student has the weights of eval mode; afterwards those that are trained, bit for bit."""
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        with torch.no_grad():
            kept = [p.detach().clone() for p in parameters]
        self._optimizer.eval()
        try:
            yield
        finally:
            self._optimizer.train()
            with torch.no_grad():
                for p, before in zip(parameters, kept, strict=True):
                    p.copy_(before)

    def put(self) -> None:
        """Give the student the weights of eval mode for good."""
        self._optimizer.eval()

    def state_dict(self) -> dict[str, Any]:
        """The weights of eval mode, for whoever loads the student; a checkpoint's ``ema``, as those of an average are."""
        with self.in_place():
            state = self._student.state_dict()
            weights = {key: value.detach().clone() for key, value in state.items() if isinstance(value, Tensor)}
        return {"weights": gather_tensors(weights), "updates": 0, "instead": True}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing: the weights follow from the optimizer's own state."""
