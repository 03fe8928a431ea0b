"""The plugin: one loss term on the two models' outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stillhouse import Plugin, StillhouseError, Weight, hookimpl, plugin
from stillhouse.contract.step import Step
from stillhouse_logits.divergence import soft_target_divergence

__all__ = ["Logits"]


@plugin
class Logits(Plugin):
    """Pull the student's class probabilities towards the teacher's, both softened by a temperature.

    Source: Hinton, Vinyals and Dean 2015 (1503.02531). The task's own loss stays as it is; ``weight`` is this term's
    factor beside it.

    Attributes:
        temperature: T > 0, at most 10,000, dividing both models' logits; the term is multiplied by T^2.
        teacher: whose probabilities: ``teacher``, or the name of a further one (``[teachers.NAME]``).
        weight: the term's factor.
    """

    requires = ("teacher",)
    shorthand = "temperature"

    temperature: float = 4.0
    teacher: str = "teacher"
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        if not 0.0 < self.temperature <= 1e4:  # beyond, float32 no longer tells the classes' probabilities apart
            what = f"must be > 0 and at most 10,000, got {self.temperature}"
            raise StillhouseError(what, where="temperature", hint="1 to 10 as a rule")

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The divergence of ``step.student.output`` from the teacher's output.

        Raises:
            StillhouseError: there is no such teacher, an output is no tensor, or the two cannot be compared (:func:`soft_target_divergence`).
        """
        student = step.student.output
        try:
            answer = step.teacher if self.teacher == "teacher" else step.side(self.teacher)
        except StillhouseError as error:
            raise error.within("teacher") from None
        teacher: Any = answer.output if answer is not None else None
        if not (isinstance(student, Tensor) and isinstance(teacher, Tensor)):
            side, output = (self.teacher, teacher) if isinstance(student, Tensor) else ("student", student)
            raise StillhouseError(
                f"the {side}'s output must be a tensor of logits, got {type(output).__name__}",
                hint="wrap the model so that its forward returns logits",
            )
        return {"": soft_target_divergence(student, teacher, self.temperature)}
