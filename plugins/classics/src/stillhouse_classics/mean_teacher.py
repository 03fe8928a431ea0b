"""Mean teacher (Tarvainen and Valpola 2017, 1703.01780)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Run, Step, Weight, hookimpl, plugin
from stillhouse_classics.checks import check_shares
from stillhouse_classics.logits import read_output

__all__ = ["MeanTeacher", "consistency_loss"]


def consistency_loss(student: Tensor, average: Tensor) -> Tensor:
    """The mean square of the difference between two softmaxes of logits (R, C): the paper's J, without noise."""
    return (student.softmax(1) - average.softmax(1)).square().mean()


@plugin
class MeanTeacher(Plugin):
    """Have the student agree with the moving average of its own weights.

    Source: 1703.01780, section 2. The average is in eval mode, sees the batch that the student sees, and has the
    student's BatchNorm statistics: parameters are averaged, buffers copied [choice]. The student's dropout is the noise;
    two augmentations of an image, as in the paper, would need a second reading of the data. The paper ramps the weight
    up: ``weight = { warmup = 0.2 }``. No [teacher] is needed.

    Attributes:
        decay: how much of the average stays in each step, from 0 to below 1; the paper's alpha.
        weight: the term's factor.
    """

    decay: float = 0.99
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        check_shares(decay=self.decay)

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """A copy of the student, frozen and in eval mode."""
        return copy.deepcopy(assembly.student).requires_grad_(False).eval()

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The squared difference of the two answers.

        Raises:
            StillhouseError: the student's output is no logits.
        """
        average = step.forward(step.module(self), step.inputs)
        return {
            "": consistency_loss(read_output(step.student.output, "student"), read_output(average.output, "student"))
        }

    @hookimpl
    def optimizer_stepped(self, run: Run, step: Step) -> None:
        """Move the average."""
        average = run.module(self)
        for mine, new in zip(average.parameters(), run.student.parameters(), strict=True):
            mine.lerp_(new, 1 - self.decay)
        for kept, seen in zip(average.buffers(), run.student.buffers(), strict=True):
            kept.copy_(seen)
