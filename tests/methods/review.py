"""ReviewKD: knowledge review (Chen et al., 2104.09044)."""

import torch
from torch import nn
from torch.nn import functional as F

from stillhouse import Plugin, Tap, Weight, hookimpl, plugin
from stillhouse.layout import channels


class Fusion(nn.Module):
    """Fuses a stage with what comes from the later ones, by attention (figure 3a); the last stage has none."""

    def __init__(self, width, middle, out, *, last):
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(width, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.expand = nn.Sequential(nn.Conv2d(middle, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.look = None if last else nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid())

    def forward(self, x, later):
        x = self.squeeze(x)
        if self.look is not None:
            later = F.interpolate(later, x.shape[2:])
            here, there = self.look(torch.cat([x, later], 1)).split(1, 1)
            x = x * here + later * there
        return self.expand(x), x


def context_loss(s, t):
    """Hierarchical context loss: mean squares of maps pooled to ever fewer cells, each level counting half."""
    cells = [s.shape[2:], *(n for n in (4, 2, 1) if n < s.shape[2])]
    levels = [F.mse_loss(F.adaptive_avg_pool2d(s, n), F.adaptive_avg_pool2d(t, n)) for n in cells]
    return sum(0.5**i * level for i, level in enumerate(levels)) / (2 - 0.5 ** (len(levels) - 1))


@plugin
class Review(Plugin):
    """Match each of the teacher's stages with the student's from there on: L = sum_i HCL(ABF_i(s_i, ...), t_i)."""

    requires = ("teacher",)
    stages: tuple[str, ...] = ("stage1", "stage2", "stage3")
    middle: int = 16
    weight: Weight = 1.0

    @hookimpl
    def add_taps(self, assembly):
        return [Tap(model, stage) for stage in self.stages for model in ("student", "teacher")]

    @hookimpl
    def build(self, assembly):
        s, t = ({k: channels(x) for k, x in assembly.features[m].items()} for m in ("student", "teacher"))
        return nn.ModuleList(Fusion(s[i], self.middle, t[i], last=i == self.stages[-1]) for i in reversed(self.stages))

    @hookimpl
    def losses(self, step):
        later, total = None, 0.0
        for fusion, stage in zip(step.module(self), reversed(self.stages), strict=True):
            out, later = fusion(step.student.features[stage].float(), later)
            total += context_loss(out, step.teacher.features[stage].float())
        return {"": total}
