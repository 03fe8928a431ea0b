"""CTKD: curriculum temperature for knowledge distillation (Li et al., 2211.16231)."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from stillhouse import Plugin, Weight, hookimpl, plugin


class Temperature(nn.Module):
    """One temperature for all samples, within ``low`` to ``low + span``; its gradient is turned round and scaled."""

    def __init__(self, steps, low, span):
        super().__init__()
        self.steps, self.low, self.span = steps, low, span
        self.raw = nn.Parameter(torch.zeros(()))

    def forward(self, iteration):
        factor = -(1 - math.cos(math.pi * min(1.0, iteration / self.steps))) / 2
        raw = factor * self.raw + (1 - factor) * self.raw.detach()
        return self.low + self.span * torch.sigmoid(raw)


@plugin
class LearnedTemperature(Plugin):
    """Distil at a temperature that is learned against the student: min over the student, max over T, of T^2 KL_T.

    The turned gradient grows by lambda = (1 - cos(pi i / n)) / 2 over the first ``share`` of the run (equation 8).
    """

    requires = ("teacher",)

    low: float = 1.0
    span: float = 20.0
    share: float = 1.0
    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly):
        return Temperature(self.share * assembly.total_steps, self.low, self.span)

    @hookimpl
    def optimizer_options(self, assembly):
        return {"weight_decay": 0.0}

    @hookimpl
    def losses(self, step):
        t = step.module(self)(step.iteration)
        ours, theirs = (step.student.output.float() / t).log_softmax(1), (step.teacher.output.float() / t).softmax(1)
        return {"": t**2 * F.kl_div(ours, theirs, reduction="batchmean")}

    @hookimpl
    def scalars(self, step):
        return {"temperature": step.module(self)(step.iteration).detach()}
