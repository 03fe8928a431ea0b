"""DKD: decoupled knowledge distillation (Zhao et al. 2022, 2203.08679)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stillhouse import Plugin, Step, StillhouseError, Weight, hookimpl, plugin
from stillhouse.layout import format_shape
from stillhouse_classics.checks import check_not_negative, check_positive
from stillhouse_classics.logits import divergence, read_logits

__all__ = ["DecoupledDistillation", "others_loss", "target_loss"]


def target_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 KL of (p_target, 1 - p_target), the teacher's from the student's: equation 5's TCKD, mean over samples.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        labels: classes (B,).
        temperature: T.
    """
    (ours, others), (theirs, rest) = (_split(x / temperature, labels) for x in (student, teacher))
    log_ratios = torch.stack([theirs - ours, rest - others])
    return (torch.stack([theirs, rest]).exp() * log_ratios).sum(0).mean() * temperature**2


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithms (B,) of the target's probability, and of all others' together."""
    logs = logits.log_softmax(1)
    own = torch.arange(logits.shape[1], device=labels.device) == labels[:, None]  # F.one_hot would read the labels
    return logs.masked_fill(~own, -torch.inf).logsumexp(1), logs.masked_fill(own, -torch.inf).logsumexp(1)


def others_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 KL of the probabilities among all classes but the target: equation 5's NCKD, mean over samples.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        labels: classes (B,).
        temperature: T.
    """
    classes = student.shape[1]
    # The C - 1 other classes of each sample, gathered: the code's -1000 in the target's place leaves its exponential.
    others = torch.arange(classes - 1, device=labels.device).expand(len(labels), -1)
    others = others + (others >= labels[:, None])
    return divergence(student.gather(1, others), teacher.gather(1, others), temperature) * temperature**2


@plugin
class DecoupledDistillation(Plugin):
    """Match how sure the teacher is of the label, and apart from it what it says among the other classes.

    Source: 2203.08679, equation 7: L = alpha TCKD + beta NCKD, both with T^2 as in the authors' code. The code warms the
    term up over 20 epochs: ``weight = { warmup_epochs = 20 }``.

    Attributes:
        temperature: T > 0.
        alpha: the factor of the target's part.
        beta: the factor of the other classes' part; 8 on CIFAR, 0.5 on ImageNet in the paper.
        weight: the factor of both.
    """

    requires = ("teacher", "targets", "targets: classes")

    temperature: float = 4.0
    alpha: float = 1.0
    beta: float = 8.0
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        check_positive(temperature=self.temperature)
        check_not_negative(alpha=self.alpha, beta=self.beta)

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """``target`` and ``others``, each times its factor.

        Raises:
            StillhouseError: outputs that are no logits of the same classes, or targets that are no class indices.
        """
        student, teacher = read_logits(step)
        if step.targets.ndim != 1 or step.targets.is_floating_point():
            raise StillhouseError(
                f"needs class indices (B,), got targets of shape {format_shape(step.targets)}",
                hint="no mixing of samples in [data] batch_transforms",
            )
        return {
            "target": self.alpha * target_loss(student, teacher, step.targets, self.temperature),
            "others": self.beta * others_loss(student, teacher, step.targets, self.temperature),
        }
