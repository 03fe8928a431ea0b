"""The spectral term: time against differentiating torch's SVD, and the error of its gradient against a float64 SVD's."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _bench import interleaved, ratio, report

from stillhouse_spectral import basis_width, follow, tail_energy, warm_tail_energy

ROWS, RANK = 256, 16
WIDTHS = (64, 128, 512, 2048)
Sigma = Callable[[int], Tensor]


def _index(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64)


SPECTRA: dict[str, Sigma] = {
    "exponential, exp(-i/8)": lambda n: torch.exp(-_index(n) / 8),
    "polynomial, 1/(1+i)": lambda n: 1 / (1 + _index(n)),
    "flat (Gaussian)": torch.ones,
    "a tail of 1e-8 of the energy": lambda n: (1e-4 + (_index(n) < RANK)) * torch.exp(-_index(n) / 40),
}


def by_svd(rows: Tensor) -> Tensor:
    """The term as autograd through torch.linalg.svd gives it."""
    sigma: Tensor = torch.linalg.svd(rows, full_matrices=False)[1]
    return sigma[RANK:].square().sum() / rows.numel()


def by_following(basis: Tensor, rows: Tensor) -> Tensor:
    """The warm term of one step, the basis' update included."""
    return warm_tail_energy(rows, follow(rows, basis), RANK)


def gradient(term: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Forward and backward."""
    x = rows.detach().requires_grad_()
    return torch.autograd.grad(term(x), x)[0]


def error(found: Tensor, rows: Tensor) -> float:
    """Of ``found``, relative to the gradient 2 U S V^T past the rank of a float64 SVD, in the Frobenius norm."""
    u, s, vh = torch.linalg.svd(rows.double(), full_matrices=False)
    exact = 2.0 * (u[:, RANK:] * s[RANK:]) @ vh[RANK:] / rows.numel()
    return float((found.double() - exact).norm() / exact.norm())


def batches(sigma: Tensor, width: int, steps: int, drift: float, *, fresh: bool) -> Iterator[Tensor]:
    """Batches of features (256, width) with covariance Q diag(sigma^2) Q^T; Q turns by about ``drift`` a step.

    ``fresh``: each batch is drawn anew, as in training; else one batch that changes by ``drift`` of itself.
    """
    g = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(width, width, generator=g, dtype=torch.float64))[0]
    samples = torch.randn(ROWS, width, generator=g, dtype=torch.float64)
    for _ in range(steps):
        new = torch.randn(ROWS, width, generator=g, dtype=torch.float64)
        samples = new if fresh else samples + drift * new
        # A product with a thin skew matrix costs little and turns every axis.
        a, b = (torch.randn(width, 8, generator=g, dtype=torch.float64) / width for _ in "ab")
        axes = axes + drift * width**0.5 * (a @ (b.T @ axes) - b @ (a.T @ axes))
        yield ((samples * sigma) @ axes.T).float()


def warm_error(sigma: Tensor, width: int, *, fresh: bool, steps: int = 30, settled: int = 10) -> tuple[float, float]:
    """Median and largest error of the warm gradient once it has settled."""
    g = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(width, basis_width(width, RANK), generator=g))[0]
    errors = []
    for step, rows in enumerate(batches(sigma, width, steps, 0.01, fresh=fresh)):
        basis = follow(rows, basis)
        if step >= settled:
            errors.append(error(gradient(partial(warm_tail_energy, basis=basis, rank=RANK), rows), rows))
    return statistics.median(errors), max(errors)


def timing() -> list[list[str]]:
    """Milliseconds of forward and backward, and how many times faster than the SVD."""
    table = []
    for width in WIDTHS:
        g = torch.Generator().manual_seed(0)
        rows = torch.randn(ROWS, width, generator=g)
        basis = torch.linalg.qr(torch.randn(width, basis_width(width, RANK), generator=g))[0]
        seconds = interleaved(
            {
                "svd": partial(gradient, by_svd, rows),
                "exact": partial(gradient, partial(tail_energy, rank=RANK), rows),
                "warm": partial(gradient, partial(by_following, basis), rows),
            },
            repeats=15,
            calls=3 if width > 128 else 10,
        )
        ms = [f"{1e3 * statistics.median(seconds[name]):.2f}" for name in ("svd", "exact", "warm")]
        ratios = ["{1:.1f} ({0:.1f} to {2:.1f})".format(*ratio(seconds, "svd", name)) for name in ("exact", "warm")]
        targets = ["3, not below 1", "10"] if width == 2048 else ["not below 1", "-"]
        table.append([str(width), *ms, ratios[0], targets[0], ratios[1], targets[1]])
    return table


def errors() -> list[list[str]]:
    """Relative errors of the gradients."""
    table = []
    for width in (64, 512, 2048):
        for name, sigma in SPECTRA.items():
            rows = next(batches(sigma(width), width, 1, 0.0, fresh=True))
            cells = [f"{error(gradient(f, rows), rows):.0e}" for f in (partial(tail_energy, rank=RANK), by_svd)]
            cells += ["{:.0e} ({:.0e})".format(*warm_error(sigma(width), width, fresh=f)) for f in (False, True)]
            table.append([str(width), name, *cells])
    return table


def main() -> None:
    """Print, and with ``--write FILE`` write, the page."""
    torch.set_num_threads(1)
    header = ["d", "SVD, ms", "exact, ms", "warm, ms", "SVD/exact", "target", "SVD/warm", "target"]
    second = [
        "d",
        "spectrum",
        "exact (target 1e-5)",
        "float32 SVD",
        "warm, one batch that drifts",
        "warm, fresh batches",
    ]
    notes = [
        f"{ROWS} rows, rank {RANK}, float32 features, forward and backward of the term on one CPU thread; medians of 15 "
        "turns, ratios turn by turn with their smallest and largest. `warm` includes following the features.",
        "",
        "### Error of the gradient",
        "",
        "Relative to a float64 SVD's gradient. `warm`: median (largest) over 20 steps after 10 to settle, while the "
        "directions turn by about 1% a step; either one batch that changes by 1% of itself a step, or every batch drawn "
        "anew, as in training. Its largest errors are batches whose 16th and 17th singular values nearly agree. Where the "
        "spectrum is flat, no 16 directions stand out, and a fresh batch's own are not those of the last: there `warm` "
        "approximates the value and not the gradient.",
        "",
        "| " + " | ".join(second) + " |",
        "|" + "---|" * len(second),
        *("| " + " | ".join(row) + " |" for row in errors()),
    ]
    report("Spectral term", header, timing(), notes)


if __name__ == "__main__":
    main()
