"""Distillation on mixed images: mixup (Zhang et al., 1710.09412) for both models, as Beyer et al. (2106.05237)."""

import torch
from torch import nn
from torch.nn import functional as F

from stillhouse import Plugin, StillhouseError, hookimpl, plugin


@plugin
class MixedInputs(Plugin):
    """Show both models mixtures of two samples: x = l x_i + (1 - l) x_j and y alike, with l from Beta(a, a)."""

    changes = ("inputs", "targets")
    shorthand = "alpha"

    alpha: float = 1.0

    def __attrs_post_init__(self):
        if self.alpha <= 0:
            raise StillhouseError(f"alpha must be above 0, got {self.alpha}", where="alpha")

    @hookimpl
    def build(self, assembly):
        classes = nn.Module()
        classes.register_buffer("eye", torch.eye(assembly.data.classes))
        return classes

    @hookimpl
    def prepare_batch(self, step):
        # Drawn on the CPU: the same run on every device, and no device is waited for.
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        other = torch.randperm(len(step.ids)).to(step.inputs.device)
        labels = F.embedding(step.targets, step.module(self).eye)
        step.inputs = share * step.inputs + (1 - share) * step.inputs[other]
        step.targets = share * labels + (1 - share) * labels[other]
