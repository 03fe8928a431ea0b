"""VID: variational information distillation (Ahn et al., 1904.05835)."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from stillhouse import Plugin, StillhouseError, Weight, hookimpl, plugin
from stillhouse.layout import channels, to_rows


class Regressor(nn.Module):
    """A Gaussian of the teacher's channels given the student's: its mean, and one variance for each channel."""

    def __init__(self, width, out, start):
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(width, 2 * out), nn.ReLU(), nn.Linear(2 * out, out))
        self.raw = nn.Parameter(torch.full((out,), math.log(math.expm1(start))))

    def forward(self, s, t):
        variance = F.softplus(self.raw) + 1e-5
        squares = (self.mean(to_rows(s)) - to_rows(t)).square()
        return 0.5 * (variance.log() + squares / variance).mean()


@plugin
class Vid(Plugin):
    """Bound the mutual information of linked layers: L = sum over links of mean (log v_c + (t_c - m_c(s))^2 / v_c) / 2.

    Equation 6, with v = softplus(a) + 1e-5.
    """

    requires = ("links",)
    shorthand = "links"

    links: str = "*"
    variance: float = 5.0
    weight: Weight = 1.0

    def __attrs_post_init__(self):
        if self.variance <= 0:
            raise StillhouseError(f"variance must be above 0, got {self.variance}", where="variance")

    @hookimpl
    def build(self, assembly):
        pairs = [(channels(link.student), channels(link.teacher)) for link in assembly.match(self.links)]
        return nn.ModuleList(Regressor(*pair, self.variance) for pair in pairs)

    @hookimpl
    def losses(self, step):
        links = zip(step.module(self), step.match(self.links), strict=True)
        return {"": sum(regressor(link.student.float(), link.teacher.float()) for regressor, link in links)}
