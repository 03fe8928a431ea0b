"""LSH: feature mimicking by locality-sensitive hashes (Wang, Ge and Wu 2020, 2011.01424)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, Weight, hookimpl, plugin
from stillhouse.layout import channels, to_rows
from stillhouse_classics.checks import check_counts, check_not_negative, check_positive
from stillhouse_classics.links import PROJECTIONS, ChannelMap, build_for_links, check_positions, give_terms

__all__ = ["HashedMimicking", "hash_loss"]

_PER_CHANNEL = 32
_MOST = 2048


def hash_loss(student: Tensor, teacher: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The binary cross-entropy of the student's hashes with the teacher's bits, mean over rows and hashes.

    The paper's L_LSH: logits W s + b, targets 1 where W t + b > 0.

    Args:
        student: rows (R, C).
        teacher: rows (R, C).
        weight: W (N, C).
        bias: b (N,).
    """
    bits = (F.linear(teacher, weight, bias) > 0).to(student.dtype)
    return F.binary_cross_entropy_with_logits(F.linear(student, weight, bias), bits)


class Hashes(nn.Module):
    """Fixed random hashes of the teacher's features, and a map of the student's to their width.

    Attributes:
        weight: W (N, C), never trained.
        bias: b (N,): less the median of each hash over the first batch.
        ready: whether that batch has been.
    """

    weight: Tensor
    bias: Tensor
    ready: Tensor

    def __init__(
        self, student: Tensor, teacher: Tensor, hashes: int | None, scale: float | None, square: float
    ) -> None:
        super().__init__()
        check_positions(student, teacher)
        inputs, outputs = channels(student), channels(teacher)
        count = hashes or min(_PER_CHANNEL * outputs, _MOST)
        self.square = square
        self.map = ChannelMap(inputs, outputs) if inputs != outputs else nn.Identity()
        self.register_buffer("weight", torch.randn(count, outputs) * (outputs**-0.5 if scale is None else scale))
        self.register_buffer("bias", torch.zeros(count))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Features of one link -> its loss, and ``square`` times half their mean squared difference."""
        s, t = to_rows(self.map(student)), to_rows(teacher)
        with torch.no_grad():
            median = F.linear(t, self.weight).median(0).values
            self.bias.copy_(torch.where(self.ready, self.bias, -median))
            self.ready.fill_(True)
        loss = hash_loss(s, t, self.weight, self.bias.clone())
        return loss + self.square * 0.5 * F.mse_loss(s, t) if self.square else loss


@plugin
class HashedMimicking(Plugin):
    """Have the student's features fall on the same side of random hyperplanes as the teacher's.

    Source: 2011.01424, section 3.2, on each link: the direction of features matters more than their length. The authors
    draw the hyperplanes with the deviation of the teacher's classifier, which is the term's temperature, and set the bias
    by the median over the training set; here the deviation is an option and the median is that of the first batch
    [choice]. Where widths differ the student's features are mapped linearly.

    Attributes:
        links: glob over link names.
        hashes: how many hyperplanes; left out, 32 for each of the teacher's channels, at most 2,048.
        scale: the deviation of the hyperplanes' normals; left out, 1 over the root of the teacher's width.
        square: the factor of half the mean squared difference beside it (the paper's L_L2 with it); 0 leaves it out.
        weight: the factor of each link's term.
    """

    requires = ("links",)
    after = PROJECTIONS

    links: str = "*"
    hashes: int | None = None
    scale: float | None = None
    square: float = 0.0
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        check_not_negative(square=self.square)
        if self.hashes is not None:
            check_counts(hashes=self.hashes)
        if self.scale is not None:
            check_positive(scale=self.scale)

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """Hashes for each link.

        Raises:
            StillhouseError: a link whose sides have other positions.
        """
        return build_for_links(assembly, self.links, lambda s, t: Hashes(s, t, self.hashes, self.scale, self.square))

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The cross-entropy of each link's hashes."""
        return give_terms(step.match(self.links), *step.module(self))
