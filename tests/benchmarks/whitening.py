"""What whitening costs and how exact it is, against the textbook: a d x d eigendecomposition in float64.

python tests/benchmarks/whitening.py [--write docs/benchmarks/whitening.md]

Target: at 256 rows of 768 channels, where the covariance is singular, at least 4 times faster than the textbook, with
an error under 1e-5 at eps = 1e-3. Other sizes are shown for comparison.
"""

from __future__ import annotations

import statistics

import torch
from _bench import interleaved, ratio, report
from torch import Tensor

from stillhouse_normalizer import normalize

EPS = 1e-3
SIZES = [(256, 768), (2048, 768), (64, 2048), (1024, 128)]
MAIN = (256, 768)
FASTER, ERROR = 4.0, 1e-5


def features(rows: int, channels: int) -> Tensor:
    """Float32 rows with a decaying spectrum and a mean far from 0, as teachers' features have."""
    torch.manual_seed(0)
    spread = 5.0 * torch.arange(1, channels + 1).float().rsqrt()
    mixed: Tensor = (torch.randn(rows, channels) * spread) @ torch.linalg.qr(torch.randn(channels, channels))[0]
    return mixed + 3.0 * torch.randn(channels)


def shrunk_covariance(z: Tensor) -> tuple[Tensor, Tensor]:
    """Centred rows and (1 - eps) C + eps I, in float64."""
    x = z.double()
    x = x - x.mean(0)
    return x, (1 - EPS) * (x.mT @ x) / (len(x) - 1) + EPS * torch.eye(x.shape[1], dtype=x.dtype)


def textbook(z: Tensor) -> Tensor:
    """ZCA by a d x d eigendecomposition in float64."""
    x, shrunk = shrunk_covariance(z)
    values, vectors = torch.linalg.eigh(shrunk)
    white: Tensor = x @ ((vectors * values.rsqrt()) @ vectors.mT)
    return white


def errors(z: Tensor) -> dict[str, float]:
    """max |white - reference| of both methods, at float32 in and out.

    Cholesky's reference is the eigendecomposition, turned: X L^{-T} = X S^{-1/2} Q with S^{1/2} = Q L^T.
    """
    x, shrunk = shrunk_covariance(z)
    values, vectors = torch.linalg.eigh(shrunk)
    zca = x @ ((vectors * values.rsqrt()) @ vectors.mT)
    # QR of S^{1/2} gives L^T without a Cholesky factorisation, so that the reference is independent.
    q, r = torch.linalg.qr((vectors * values.sqrt()) @ vectors.mT)
    turn = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return {
        "zca": (normalize(z, "whiten", EPS, "zca") - zca).abs().max().item(),
        "cholesky": (normalize(z, "whiten", EPS, "cholesky") - zca @ turn).abs().max().item(),
    }


def main() -> None:
    """Measure, print, and with ``--write`` keep."""
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    for size in SIZES:
        z = features(*size)
        seconds = interleaved(
            {
                "textbook": lambda z=z: textbook(z).float(),
                "cholesky": lambda z=z: normalize(z, "whiten", EPS, "cholesky"),
                "zca": lambda z=z: normalize(z, "whiten", EPS, "zca"),
            },
            repeats=5,
            warmup=1,
        )
        found = errors(z)
        for name in ("textbook", "cholesky", "zca"):
            low, middle, high = ratio(seconds, "textbook", name)
            judged = size == MAIN and name != "textbook"
            met = judged and middle >= FASTER and found[name] < ERROR
            rows.append(
                [
                    f"{size[0]} x {size[1]}",
                    name,
                    f"{1e3 * statistics.median(seconds[name]):.2f}",
                    f"{middle:.1f} ({low:.1f} to {high:.1f})",
                    f"{found[name]:.1e}" if name in found else "",
                    f"{FASTER:g} times, {ERROR:g}: {'met' if met else 'MISSED'}" if judged else "",
                ]
            )
    report(
        "Whitening: cost and error",
        ["rows x channels", "method", "ms (median)", "times faster than the textbook", "largest error", "target"],
        rows,
        [
            f"eps = {EPS:g}. Textbook: ZCA by a channels x channels eigendecomposition in float64, centring and products "
            "included. Errors are absolute, of float32 results whose entries are of size 1, against float64 "
            "eigendecompositions. With more rows than channels zca is the textbook, and cholesky the fast one; with "
            "fewer, zca works on the rows x rows Gram matrix and is the fast one."
        ],
    )


if __name__ == "__main__":
    main()
