"""Several teachers at once (You et al., 2017; Fukuda et al., Interspeech 2017): their softened answers, averaged.

Hinton et al. (1503.02531) distil an ensemble by the same average.
"""

import torch
from torch.nn import functional as F

from stillhouse import Plugin, Weight, hookimpl, plugin


@plugin
class TwoTeachers(Plugin):
    """Match the mean of the softened answers of the run's teacher and its further ones: L = T^2 KL(mean_k p_k || p_s)."""

    requires = ("teacher",)

    temperature: float = 4.0
    weight: Weight = 1.0

    @hookimpl
    def losses(self, step):
        t = self.temperature
        sides = [step.teacher, *step.teachers.values()]
        answer = torch.stack([(side.output.float() / t).softmax(1) for side in sides]).mean(0)
        ours = (step.student.output.float() / t).log_softmax(1)
        return {"": t**2 * F.kl_div(ours, answer, reduction="batchmean")}
