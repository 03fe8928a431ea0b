"""Mean teacher (Tarvainen and Valpola, 1703.01780)."""

import copy

from stillhouse import Plugin, Weight, hookimpl, plugin


@plugin
class MeanTeacher(Plugin):
    """Match the moving average of the student's own weights: L = mean ||p_student - p_average||^2.

    The average is in eval mode, so no pass of its own moves its BatchNorm statistics: the student's are copied.
    """

    shorthand = "decay"

    decay: float = 0.99
    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly):
        return copy.deepcopy(assembly.student).requires_grad_(False).eval()

    @hookimpl
    def losses(self, step):
        average = step.forward(step.module(self), step.inputs)
        ours, theirs = step.student.output.float().softmax(1), average.output.float().softmax(1)
        return {"": (ours - theirs).square().mean()}

    @hookimpl
    def optimizer_stepped(self, run, step):
        average = run.module(self)
        for mine, new in zip(average.parameters(), run.student.parameters(), strict=True):
            mine.lerp_(new, 1 - self.decay)
        for mine, new in zip(average.buffers(), run.student.buffers(), strict=True):
            mine.copy_(new)
