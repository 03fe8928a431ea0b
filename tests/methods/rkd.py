"""RKD: relational knowledge distillation (Park et al., 1904.05068)."""

import torch
from torch.nn import functional as F

from stillhouse import Plugin, Weight, hookimpl, plugin


def distances(x):
    """Euclidean distances of the rows of ``x`` (B, D) by pair i < j, over their mean."""
    found = F.pdist(x)
    return found / found.mean()


def angles(x):
    """Cosines (B, B, B) of the angles that the rows i and k of ``x`` (B, D) make at j."""
    edges = F.normalize(x[None] - x[:, None], dim=2)
    return edges @ edges.transpose(1, 2)


@plugin
class Rkd(Plugin):
    """Match distances and angles among the samples of a batch: Huber losses of equations 6 to 10, on links of vectors."""

    requires = ("links",)

    angle: float = 2.0
    links: str = "*"
    weight: Weight = 1.0

    @hookimpl
    def losses(self, step):
        apart = bent = 0.0
        for link in step.match(self.links):
            s, t = link.student.float().flatten(1), link.teacher.float().flatten(1)
            apart += F.smooth_l1_loss(distances(s), distances(t))
            away = 1 - torch.eye(len(s), device=s.device)  # no angle where two of the three are one sample
            apex = away[:, :, None] * away[:, None, :] * away[None]
            bent += (F.smooth_l1_loss(angles(s), angles(t), reduction="none") * apex).sum() / apex.sum().clamp(min=1)
        return {"distance": apart, "angle": self.angle * bent}
