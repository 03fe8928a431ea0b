"""Transforms in order: on one sample and its target, or on a batch's images, together where that gives the same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.data.sampler import Ids
from stillhouse.data.transform_stages import Images, Looks, NamedTransform, Stage, make_stage, run_stage

__all__ = ["DRAWS", "TransformChain"]

DRAWS = 2
"""How random numbers become parameters; counted up where the same seed gives other looks than before."""


@attrs.frozen(eq=False)
class TransformChain:
    """Transforms in order.

    What a batch's images become follows from (seed, epoch, sample, the transform's place in the chain), whichever samples
    share the batch. Neighbouring crops and flips are composed and cost one copy a sample.

    Attributes:
        transforms: one or more.
    """

    transforms: tuple[NamedTransform, ...]
    _stages: tuple[Stage, ...] = attrs.field(init=False)

    @_stages.default
    def _group(self) -> tuple[Stage, ...]:
        stages: list[Stage] = []
        for place, transform in enumerate(self.transforms):
            stage = make_stage(transform, place)
            joined = stages[-1].join(stage) if stages else None
            if joined is None:
                stages.append(stage)
            else:
                stages[-1] = joined
        return tuple(stages)

    def __call__(self, *inputs: Any) -> Any:
        """Transform one sample, or one and its target together, with numbers from the global generators.

        Raises:
            TransformError: one of them raised.
        """
        for transform in self.transforms:
            out = transform(*inputs)
            inputs = out if len(inputs) > 1 else (out,)
        return inputs if len(inputs) > 1 else inputs[0]

    def augment(self, images: Sequence[NDArray[Any]], ids: Ids, seed: int, epoch: int) -> Tensor | list[Any]:
        """Transform a batch's images, each (C, H, W) of uint8 or float32.

        Args:
            images: as many as ``ids``; they stay as they are.
            ids: the samples (B,).
            seed: the run's.
            epoch: whose looks they get.

        Returns:
            The images (B, C, H, W); a list where they differ in shape or dtype, or are no tensors.

        Raises:
            TransformError: a transform raised, with the row of a sample on which it does.
        """
        made: Images = list(images)
        looks = Looks(ids, seed, epoch)
        for stage in self._stages:
            made = run_stage(stage, made, looks)
            if isinstance(made, list) and not all(isinstance(x, Tensor) for x in made):
                break  # no transform of tensors goes on from there
        return made
