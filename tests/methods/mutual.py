"""Deep mutual learning (Zhang et al., 1706.00384)."""

import copy

from torch.nn import functional as F

from stillhouse import Plugin, Weight, hookimpl, plugin


def divergence(student, teacher):
    """KL(teacher || student) of logits (B, C); the teacher's side without gradient."""
    return F.kl_div(student.log_softmax(1), teacher.detach().softmax(1), reduction="batchmean")


@plugin
class Mutual(Plugin):
    """Train a peer beside the student, from another start; each learns from the labels and from the other.

    L = KL(peer || student) + CE(peer) + KL(student || peer), beside the task's own loss (equations 4 to 7).
    """

    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly):
        peer = copy.deepcopy(assembly.student)
        for module in peer.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        return peer

    @hookimpl
    def losses(self, step):
        student = step.student.output.float()
        peer = step.forward(step.module(self), step.inputs).output.float()
        return {
            "student": divergence(student, peer),
            "peer": divergence(peer, student),
            "labels": F.cross_entropy(peer, step.targets),
        }
