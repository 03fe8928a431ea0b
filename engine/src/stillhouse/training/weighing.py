"""The samples' own weights in the task's loss, where the data have any."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.step import Step

__all__ = ["SampleWeights"]


class SampleWeights:
    """Weighs the samples of a step, as a plugin may; what is measured has no weights.

    Args:
        weights: of each sample (N,), by id.
    """

    name = "weights"

    def __init__(self, weights: NDArray[np.float32]) -> None:
        self._weights = torch.from_numpy(weights)

    @hookimpl
    def sample_weights(self, step: Step) -> Tensor:
        """The weights of the step's samples (B,)."""
        return self._weights[step.ids].to(step.inputs.device, non_blocking=True)
