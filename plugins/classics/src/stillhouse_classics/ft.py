"""FT: factor transfer (Kim et al. 2018, 1802.04977)."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, StillhouseError, Weight, hookimpl, plugin
from stillhouse.layout import channels
from stillhouse_classics.links import PROJECTIONS, build_for_links, check_maps, check_positions, give_terms

__all__ = ["FactorTransfer", "factor_loss"]


def factor_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean absolute difference of the two sides' factors, each sample's of Euclidean norm 1: equation 3 with p = 1.

    Args:
        student: factors (B, ...).
        teacher: factors of the same shape.
    """
    ours, theirs = (F.normalize(x.flatten(1), dim=1) for x in (student, teacher))
    return F.l1_loss(ours, theirs)


def _layer(inputs: int, outputs: int, *, last: bool = False) -> nn.Sequential:
    tail: list[nn.Module] = [] if last else [nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)]
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), *tail)


class Factors(nn.Module):
    """The teacher's paraphraser, an autoencoder; and the student's translator, which gives as many factors."""

    def __init__(self, student: Tensor, teacher: Tensor, rate: float) -> None:
        super().__init__()
        check_maps(student, teacher)
        check_positions(student, teacher)
        inputs, outputs = channels(student), channels(teacher)
        factors = max(1, round(rate * outputs))
        self.translator = nn.Sequential(
            _layer(inputs, inputs), _layer(inputs, factors), _layer(factors, factors, last=True)
        )
        self.encoder = nn.Sequential(
            _layer(outputs, outputs), _layer(outputs, factors), _layer(factors, factors, last=True)
        )
        self.decoder = nn.Sequential(
            _layer(factors, factors), _layer(factors, outputs), _layer(outputs, outputs, last=True)
        )

    def translate(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Maps of one link -> the distance of their factors; the paraphraser gets no gradient of it."""
        return factor_loss(self.translator(student), self.encoder(teacher).detach())

    def paraphrase(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Maps of one link -> the mean square of what the paraphraser makes of the teacher's, less these (equation 1)."""
        features = teacher.detach()
        return F.mse_loss(self.decoder(self.encoder(features)), features)


@plugin
class FactorTransfer(Plugin):
    """Have the student give factors that an autoencoder finds in the teacher's features.

    Source: 1802.04977, equations 1 to 3, on each link. Paraphraser and translator are three 3x3 convolutions as in the
    paper, with BatchNorm and leaky ReLU but after the last [choice]. The paper trains the paraphraser before the student;
    here it learns beside it, by its own term, and the student's gradient does not reach it [choice].

    Attributes:
        links: glob over link names; their sides are maps (``pool = "none"``).
        rate: factors for each of the teacher's channels, above 0 and at most 8: the paper's k.
        weight: the factor of each link's two terms.
    """

    requires = ("links",)
    after = PROJECTIONS

    links: str = "*"
    rate: float = 0.5
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        if not 0 < self.rate <= 8:
            raise StillhouseError(f"must be above 0 and at most 8, got {self.rate}", where="rate", hint="0.5 to 0.75")

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """A paraphraser and a translator for each link.

        Raises:
            StillhouseError: a link without maps, or with other positions on its sides.
        """
        return build_for_links(assembly, self.links, lambda s, t: Factors(s, t, self.rate))

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """``factors`` and ``reconstruction`` of each link."""
        links, own = step.match(self.links), list(step.module(self))
        found: dict[str, Tensor] = {}
        for name, losses in (
            ("factors", [factors.translate for factors in own]),
            ("reconstruction", [factors.paraphrase for factors in own]),
        ):
            found |= {f"{name}.{key}" if key else name: term for key, term in give_terms(links, *losses).items()}
        return found
