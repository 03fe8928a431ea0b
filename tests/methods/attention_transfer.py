"""Attention transfer (Zagoruyko and Komodakis, 1612.03928)."""

from torch.nn import functional as F

from stillhouse import Plugin, Weight, hookimpl, plugin
from stillhouse.layout import to_rows


def attention(x):
    """Where a layer looks: mean of squares over channels at each position, (B, positions), of Euclidean norm 1."""
    rows = to_rows(x.float())
    return F.normalize(rows.square().mean(1).view(len(x), -1), dim=1)


@plugin
class AttentionTransfer(Plugin):
    """Have the student look where the teacher looks.

    L = sum over links of mean ||Q_s/|Q_s| - Q_t/|Q_t|||^2 / 2, with Q = sum_c x_c^2 (equation 2, p = 2).
    """

    requires = ("links",)
    shorthand = "links"

    links: str = "*"
    weight: Weight = 1.0

    @hookimpl
    def losses(self, step):
        pairs = [(attention(link.student), attention(link.teacher)) for link in step.match(self.links)]
        return {"": sum((s - t).square().sum(1).mean() / 2 for s, t in pairs)}
