"""Deep mutual learning (Zhang et al. 2018, 1706.00384)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, Weight, hookimpl, plugin
from stillhouse_classics.checks import check_counts
from stillhouse_classics.logits import divergence, read_output

__all__ = ["MutualLearning", "cohort_loss"]


def cohort_loss(own: Tensor, others: Sequence[Tensor]) -> Tensor:
    """The mean over ``others`` of KL(softmax(other) || softmax(own)): equation 7. The others get no gradient.

    Args:
        own: logits (R, C) of the network that learns.
        others: logits (R, C) of the rest of the cohort.
    """
    return sum((divergence(own, other.detach()) for other in others), start=own.new_zeros(())) / len(others)


@plugin
class MutualLearning(Plugin):
    """Train peers beside the student, from other starts; each learns from the labels and from all others.

    Source: 1706.00384, equations 4 to 7. The peers are copies of the student whose layers draw their parameters anew;
    a layer without ``reset_parameters`` starts as the student's, and one that is frozen stays so. All networks learn in one step by one optimizer, where
    the paper lets them take turns [choice]. After training the peers are left behind. No [teacher] is needed.

    Attributes:
        peers: how many networks learn beside the student.
        weight: the factor of all terms, the peers' own loss by the labels among them.
    """

    requires = ("targets: classes",)

    peers: int = 1
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        check_counts(peers=self.peers)

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """The peers."""
        peers = nn.ModuleList(copy.deepcopy(assembly.student) for _ in range(self.peers))
        for module in peers.modules():
            if callable(reset := getattr(module, "reset_parameters", None)) and not _is_frozen(module):
                reset()
        return peers

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """``student``: what it misses of the peers; ``peers``: what each misses of all others; ``labels``: their own loss.

        Raises:
            StillhouseError: the student's output is no logits.
        """
        student = read_output(step.student.output, "student")
        peers = [read_output(step.forward(peer, step.inputs).output, "student") for peer in step.module(self)]
        cohort = [student, *peers]
        learned = [cohort_loss(own, [x for x in cohort if x is not own]) for own in cohort]
        labels = [F.cross_entropy(peer, step.targets) for peer in peers]
        return {
            "student": learned[0],
            "peers": sum(learned[1:], start=student.new_zeros(())),
            "labels": sum(labels, start=student.new_zeros(())),
        }


def _is_frozen(module: nn.Module) -> bool:
    """Whether a layer trains nothing of its own: its parameters are frozen, or it has none and is in eval mode."""
    own = list(module.parameters(recurse=False))
    return not any(p.requires_grad for p in own) if own else not module.training
