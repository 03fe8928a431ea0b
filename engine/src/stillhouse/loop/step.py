"""A batch on its device, as a step."""

from __future__ import annotations

from stillhouse.contract.batch import Batch
from stillhouse.contract.sealed import Links, Losses, Teachers, Weights
from stillhouse.contract.step import Step
from stillhouse.contract.turns import SealedStep
from stillhouse.loop.composition import Composition

__all__ = ["new_step"]


def new_step(batch: Batch, composition: Composition, iteration: int = 0, epoch: int = 0) -> Step:
    """A sealed step for ``batch``, whose inputs and targets of any kind go to the run's device; ids and weights stay on the CPU."""
    if composition.places:
        batch = Batch(*composition.place(batch.input, batch.target), batch.id, batch.weight)
    given = (batch, batch.id, batch.input, batch.target, iteration, epoch, composition)
    step = Step(*given, teachers=Teachers(), links=Links(), losses=Losses(), weights=Weights())
    step.__class__ = SealedStep
    return step
