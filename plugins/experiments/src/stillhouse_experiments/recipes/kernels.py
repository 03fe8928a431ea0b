"""Similarity losses with other kernels than the inner product: the student should find the same samples alike as the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse import Plugin, StillhouseError, Weight, hookimpl, plugin
from stillhouse.contract.step import Step
from stillhouse.layout import to_rows

Kernel = Literal["inner", "cosine", "polynomial", "rbf"]


def kernel_matrix(rows: Tensor, kernel: Kernel) -> Tensor:
    """K (R, R) of rows z_i (R, C), in float32 at least.

    - ``inner``: z_i . z_j, what VkD's orthogonal projection preserves (2403.06213, section 3.1);
    - ``cosine``: z_i . z_j / (|z_i| |z_j|); a row of zeros is like none, itself included;
    - ``polynomial``: (z_i . z_j / m + 1)^3 with m the mean of |z_i|^2 over the batch, so that no feature's scale decides
      how far from linear it is;
    - ``rbf``: exp(-|z_i - z_j|^2 / (2 s^2)), s the median distance of different rows: Kornblith et al. 2019 (1905.00414), section 3, take
      fractions of that median as the bandwidth.

    m and s are constants of the batch: no gradient flows through them.
    """
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if kernel == "cosine":
        rows = F.normalize(rows)
    products = rows @ rows.T
    if kernel == "polynomial":
        return (products / products.diagonal().mean().detach().clamp_min(1e-12) + 1.0) ** 3
    if kernel == "rbf":
        squares = products.diagonal()
        distances = (squares[:, None] + squares[None, :] - 2.0 * products).clamp_min(0.0)
        different = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        median = distances.detach()[different].median()
        return torch.exp(-distances / (2.0 * median.clamp_min(1e-12)))
    return products


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """Centred alignment of two kernel matrices (R, R): <HaH, HbH> / (|HaH| |HbH|), H = I - 1/R; 1 where they agree.

    Source: Cortes, Mohri and Rostamizadeh, JMLR 2012, definition 4; as CKA, Kornblith et al. 2019 (1905.00414). Blind to the scale of
    either side, so that one weight serves all kernels.
    """
    a, b = _centred(a), _centred(b)
    found: Tensor = (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12)
    return found


def _centred(k: Tensor) -> Tensor:
    return k - k.mean(0, keepdim=True) - k.mean(1, keepdim=True) + k.mean()


@plugin
class KernelSimilarity(Plugin):
    """1 - the centred alignment of the student's and the teacher's kernel matrix over the batch, summed over links.

    No projection is needed: the two sides meet as matrices of samples by samples, whatever their widths.

    Attributes:
        kernel: see :func:`kernel_matrix`.
        links: glob over link names.
        weight: the term's factor.
    """

    requires = ("links",)
    shorthand = "kernel"

    kernel: Kernel = "inner"
    links: str = "*"
    weight: Weight = 1.0

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The one term.

        Raises:
            StillhouseError: a batch of one row.
        """
        terms = []
        for link in step.match(self.links):
            student, teacher = to_rows(link.student), to_rows(link.teacher)
            if len(student) < 2:
                raise StillhouseError("one row has no similarities", where=f"link {link.name!r}", hint="a larger batch")
            terms.append(1.0 - alignment(kernel_matrix(student, self.kernel), kernel_matrix(teacher, self.kernel)))
        return {"": torch.stack(terms).sum()}
