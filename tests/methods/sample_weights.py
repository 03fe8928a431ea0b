"""Confidence weighting by the teacher's maximum, CWTM (Furlanello et al., born-again networks, 1805.04770)."""

from stillhouse import Plugin, hookimpl, plugin


@plugin
class ConfidenceWeights(Plugin):
    """Have a sample count in the task's loss as sure as the teacher is in its answer: w_i = B max p_i / sum_j max p_j."""

    requires = ("teacher",)

    @hookimpl
    def sample_weights(self, step):
        sure = step.teacher.output.float().softmax(1).amax(1)
        return sure / sure.mean()
