"""How alike the two sides of a link are, and how many directions each of them uses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stillhouse import Link
from stillhouse.layout import to_rows

__all__ = [
    "compute_cka",
    "compute_effective_rank",
    "compute_gram_error",
    "compute_spectrum",
    "find_rows",
    "measure_links",
]

SAMPLE = 256
"""At most so many rows are looked at: dense maps have thousands."""
_LEAST = 1e-30


def find_rows(x: Tensor) -> Tensor:
    """Vectors, tokens or maps as rows (R, C) in float32 at least, thinned evenly to at most ``SAMPLE``."""
    rows = to_rows(x.detach())
    rows = rows[:: -(-len(rows) // SAMPLE)]
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def compute_cka(a: Tensor, b: Tensor) -> Tensor:
    """Linear CKA of rows (R, C) and (R, D): 1 where one is the other turned and scaled, 0 where they share nothing.

    Source: Kornblith et al., Similarity of neural network representations revisited, ICML 2019 (1905.00414), section 3,
    written with the Gram matrices of centred rows.
    """
    a, b = a - a.mean(0), b - b.mean(0)
    k, m = a @ a.mT, b @ b.mT
    cka: Tensor = (k * m).sum() / (k.norm() * m.norm()).clamp_min(_LEAST)
    return cka


def compute_gram_error(student: Tensor, teacher: Tensor) -> Tensor:
    """||K_s - K_t|| / ||K_t|| of the Gram matrices K = Z Z^T of rows (R, C) and (R, D), as they are: scale counts."""
    k, m = student @ student.mT, teacher @ teacher.mT
    error: Tensor = (k - m).norm() / m.norm().clamp_min(_LEAST)
    return error


def compute_effective_rank(rows: Tensor) -> Tensor:
    """exp of the entropy of s_i / sum s, s the singular values of the centred rows (R, C): 1 to min(R - 1, C).

    Source: Roy and Vetterli, The effective rank, EUSIPCO 2007, definition 1. Rows that are all alike have rank 0 here, and those that are not
    finite NaN.
    """
    return _count_directions(compute_spectrum(rows))


def _count_directions(values: Tensor) -> Tensor:
    whole = values.sum()
    share = values / whole.clamp_min(_LEAST)
    return torch.where(whole.isfinite(), torch.special.entr(share).sum().exp() * (whole > 0), torch.nan)


def compute_spectrum(rows: Tensor) -> Tensor:
    """The singular values (min(R, C),) of the centred rows (R, C), float64; NaN where a row is not finite.

    From the smaller Gram matrix, so that a value is only told from 0 where it is above the square root of the precision.
    """
    x = rows.double() - rows.double().mean(0)
    gram = x @ x.mT if len(x) <= x.shape[1] else x.mT @ x
    finite = gram.isfinite().all()
    squares = torch.linalg.eigvalsh(torch.where(finite, gram, 0.0)).clamp_min(0.0)
    largest = squares.max()
    # Rounding of the mean leaves something of rows that are all alike.
    floor = torch.maximum(largest, rows.double().square().sum()) * torch.finfo(rows.dtype).eps ** 2
    return torch.where(finite, torch.where(squares > floor, squares, 0.0).sqrt(), torch.nan)


@torch.no_grad()
def measure_links(links: Mapping[str, Link]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The four figures of each link as it reaches the losses, and the singular values of both sides, by tag."""
    found, spectra = {}, {}
    for name, link in links.items():
        if not (link.student.is_floating_point() and link.teacher.is_floating_point()):
            continue
        student, teacher = find_rows(link.student), find_rows(link.teacher)
        for side, rows in (("student", student), ("teacher", teacher)):
            spectra[f"{side}/{name}"] = values = compute_spectrum(rows)
            found[f"rank_{side}/{name}"] = _count_directions(values)
        if len(student) == len(teacher):
            found[f"cka/{name}"] = compute_cka(student, teacher)
            found[f"gram_error/{name}"] = compute_gram_error(student, teacher)
    return found, spectra
