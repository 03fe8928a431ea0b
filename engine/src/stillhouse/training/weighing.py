"""The samples' own weights in the task's loss, where the data have any."""

from __future__ import annotations

from torch import Tensor

from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.step import Step

__all__ = ["SampleWeights"]


class SampleWeights:
    """Weighs the samples of a step by the batch's weights, as a plugin may; what is measured has no weights."""

    name = "weights"

    @hookimpl
    def sample_weights(self, step: Step) -> Tensor:
        """The weights of the step's samples (B,)."""
        weights: Tensor = step.batch.weight.to(step.inputs.device, non_blocking=True)
        return weights
