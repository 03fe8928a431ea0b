"""CRD: contrastive representation distillation (Tian, Krishnan and Isola 2020, 1910.10699)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, StillhouseError, Weight, hookimpl, plugin
from stillhouse.contract.assembly import Rows
from stillhouse.distributed.processes import gather, mean_over_processes
from stillhouse_classics.checks import check_counts, check_positive, check_shares
from stillhouse_classics.links import PROJECTIONS, build_for_links, flatten_samples, give_terms

__all__ = ["ContrastiveDistillation", "contrast_loss"]

_LEAST = 1e-7
"""Added to denominators, as in the authors' code."""
_COLDEST = 0.015
"""Below it the sum of a batch's exp(1 / temperature) leaves float32."""


def contrast_loss(scores: Tensor, samples: int) -> Tensor:
    """The noise-contrastive loss of scores (B, 1 + K), the pair's first and the K others' after it: equation 18's critic.

    -log h - sum over K of log(1 - h), with h = score / (score + K / samples); the mean over the batch.

    Args:
        scores: exp(<s, t> / tau) over its constant; positive.
        samples: how many training samples the others were drawn from.
    """
    noise = (scores.shape[1] - 1) / samples
    pair, others = scores[:, 0], scores[:, 1:]
    found = (pair / (pair + noise + _LEAST)).log().mean()
    missed = (noise / (others + noise + _LEAST)).log().sum(1).mean()
    return -(found + missed)


class Banks(nn.Module):
    """An embedding of each side, and the last one of every training sample.

    Attributes:
        banks: the embeddings (2, N, D) of the student's side and of the teacher's.
        constants: what brings the two sides' scores to the mean 1/N (2,); 0 until the first batch.
    """

    banks: Tensor
    constants: Tensor

    def __init__(self, student: Tensor, teacher: Tensor, rows: Rows, dim: int) -> None:
        super().__init__()
        self.rows = rows
        self.heads = nn.ModuleList(nn.Linear(flatten_samples(x).shape[1], dim) for x in (student, teacher))
        self.register_buffer("banks", F.normalize(torch.randn(2, rows.count, dim), dim=2))
        self.register_buffer("constants", torch.zeros(2))

    def contrast(self, student: Tensor, teacher: Tensor, ids: Tensor, options: ContrastiveDistillation) -> Tensor:
        """Features of one link (B, ...) and the samples' ids (B,) -> the loss of both sides; the banks then follow."""
        count = len(self.rows)
        own = self.rows(ids)
        others = torch.randint(count, (len(own), options.negatives))
        index = torch.cat([own[:, None], others], 1).to(student.device, non_blocking=True)
        sides = [
            F.normalize(head(flatten_samples(x)), dim=1) for head, x in zip(self.heads, (student, teacher), strict=True)
        ]
        loss = student.new_zeros(())
        for side, anchor in enumerate(sides):
            bank = self.banks[1 - side][index]
            scores = (torch.einsum("bd,bkd->bk", anchor, bank) / options.temperature).exp()
            with torch.no_grad():
                first = mean_over_processes(scores.mean()) * count
                constant = torch.where(self.constants[side] == 0, first, self.constants[side])
                self.constants[side] = constant
            loss = loss + contrast_loss(scores / constant, count)
        self._follow(sides, index[:, 0].contiguous(), options.momentum)
        return loss

    @torch.no_grad()
    def _follow(self, sides: list[Tensor], own: Tensor, momentum: float) -> None:
        """Move the banks' rows of the batch, of every process's: the copies stay alike."""
        own = gather(own)
        for bank, x in zip(self.banks, sides, strict=True):
            bank[own] = F.normalize(momentum * bank[own] + (1 - momentum) * gather(x), dim=1)


@plugin
class ContrastiveDistillation(Plugin):
    """Tell a sample's own pair of embeddings from those with other samples, of which a bank remembers the last.

    Source: 1910.10699, equations 9 to 19, on each link: linear embeddings of both sides, of Euclidean norm 1, and for
    either side as anchor the noise-contrastive loss against the other side's bank. The others are drawn from all training
    samples, whatever their class [choice]; the authors' other form leaves out the anchor's class. The constant is
    the first batch's mean score, as in their code.

    Attributes:
        links: glob over link names; vectors as a rule (``pool = "mean"``).
        dim: width of the embeddings.
        negatives: others for each sample, the paper's N; 16,384 in its experiments.
        temperature: tau > 0.
        momentum: how much of a bank's row stays, from 0 to below 1.
        weight: the factor of each link's term.
    """

    requires = ("links", "ids")
    after = PROJECTIONS

    links: str = "*"
    dim: int = 128
    negatives: int = 1024
    temperature: float = 0.07
    momentum: float = 0.5
    weight: Weight = 0.8

    def __attrs_post_init__(self) -> None:
        check_counts(dim=self.dim, negatives=self.negatives)
        check_positive(temperature=self.temperature)
        if self.temperature < _COLDEST:
            what = f"must be >= {_COLDEST}, got {self.temperature}: exp(1 / temperature) is beyond float32"
            raise StillhouseError(what, where="temperature")
        check_shares(momentum=self.momentum)

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """Embeddings and banks for each link.

        Raises:
            StillhouseError: unlabelled samples, of which a bank has none, are among those that the terms are of.
        """
        if assembly.recipe.data.has_unlabelled and assembly.recipe.data.terms == "all":
            raise StillhouseError(
                "a bank has the labelled samples alone", where="data.terms", hint='terms = "labelled"'
            )
        return build_for_links(assembly, self.links, lambda s, t: Banks(s, t, assembly.rows, self.dim))

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The contrastive loss of each link."""
        own = (partial(banks.contrast, ids=step.ids, options=self) for banks in step.module(self))
        return give_terms(step.match(self.links), *own)
