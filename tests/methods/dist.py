"""DIST: distillation from a stronger teacher (Huang et al., 2205.10536)."""

from torch.nn import functional as F

from stillhouse import Plugin, Weight, hookimpl, plugin


def uncorrelated(a, b):
    """One minus Pearson's correlation of the rows of ``a`` and ``b`` (R, C), averaged over them."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return 1 - F.cosine_similarity(a, b, dim=1).mean()


@plugin
class Dist(Plugin):
    """Match the teacher's relations between classes and between samples, instead of its probabilities.

    L = T^2 (beta d(Y_s, Y_t) + gamma d(Y_s', Y_t')), d = 1 - Pearson's correlation by row (equations 8 to 10).
    """

    requires = ("teacher",)

    temperature: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    weight: Weight = 1.0

    @hookimpl
    def losses(self, step):
        t = self.temperature
        ours, theirs = ((side.output.float() / t).softmax(1) for side in (step.student, step.teacher))
        return {
            "inter": self.beta * t**2 * uncorrelated(ours, theirs),
            "intra": self.gamma * t**2 * uncorrelated(ours.T, theirs.T),
        }
