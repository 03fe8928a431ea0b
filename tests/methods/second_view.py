"""A second view of each sample, after SSKD (Xu et al., 2006.07114)."""

from torch.nn import functional as F

from stillhouse import Plugin, Weight, hookimpl, plugin


def resemblance(first, second, temperature):
    """Log-probabilities (B, B) that a sample's view is that of each sample, by the cosine of their outputs."""
    return (F.normalize(first.float()) @ F.normalize(second.float()).T / temperature).log_softmax(1)


@plugin
class SecondView(Plugin):
    """Match how the teacher finds a batch and its turned images to resemble each other: L = T^2 KL(B_t || B_s)."""

    requires = ("live teacher",)

    temperature: float = 0.5
    weight: Weight = 1.0

    @hookimpl
    def losses(self, step):
        turned = step.inputs.rot90(1, (2, 3))
        ours, theirs = (
            resemblance(first.output, step.forward(which, turned).output, self.temperature)
            for which, first in (("student", step.student), ("teacher", step.teacher))
        )
        divergence = F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
        return {"": self.temperature**2 * divergence}
