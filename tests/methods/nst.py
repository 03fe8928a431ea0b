"""NST: neuron selectivity transfer (Huang and Wang, 1707.01219)."""

from torch.nn import functional as F

from stillhouse import Plugin, Tap, Weight, hookimpl, plugin


def kernel(a, b):
    """Mean over pairs of channels of the squared inner product of ``a`` and ``b`` (B, C, N), (B,)."""
    return (a @ b.transpose(1, 2)).square().mean((1, 2))


@plugin
class Nst(Plugin):
    """Match how the channels of one layer are spread over positions: the squared MMD of equation 5, polynomial kernel."""

    requires = ("teacher",)

    student: str
    teacher: str
    weight: Weight = 1.0

    @hookimpl
    def add_taps(self, assembly):
        return [Tap("student", self.student), Tap("teacher", self.teacher)]

    @hookimpl
    def losses(self, step):
        maps = step.student.features[self.student], step.teacher.features[self.teacher]
        s, t = (F.normalize(x.float().flatten(2), dim=2) for x in maps)
        return {"": (kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)).mean()}
