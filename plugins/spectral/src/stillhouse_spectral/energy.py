"""The exact tail energy: what of a feature matrix lies past its first singular values, with its exact gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillhouse import StillhouseError
from stillhouse.layout import format_shape, full_precision

__all__ = ["check_rank", "check_rows", "mean_square", "tail_energy", "tail_residual"]


def tail_energy(rows: Tensor, rank: int) -> Tensor:
    """Sum over i >= ``rank`` of sigma_i^2, divided by the number of elements: a scalar, in float32 at least.

    sigma_0 >= sigma_1 >= ... are the singular values of ``rows``, uncentred. Source: 2403.14494, section 3.5. ``rank``
    counts the directions that are kept free: 0 keeps none, which is the mean square of all activations. (A sum that
    begins at index ``rank`` counted from 1 keeps ``rank - 1``; so does "the singular values from the r-th on".)

    The value is ``||Z - Z V V^T||^2`` with V the leading right singular vectors, held: as the residual is at its minimum
    over V, V's own change adds nothing to first order, and the gradient 2 (Z - Z V V^T) is that of the tail energy,
    without a derivative of singular vectors. It is finite on zero, rank-deficient and repeated singular values.
    A second derivative is refused: held directions would give a wrong one.

    Args:
        rows: Z, (R, C).
        rank: how many directions are kept; from min(R, C) on the value and the gradient are 0.

    Raises:
        StillhouseError: ``rows`` is no matrix of floating-point numbers, or ``rank`` is negative.
    """
    check_rows(rows)
    check_rank(rank)
    with full_precision(rows):
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        # Residual in float64, then rounded once: where the tail is small, float32 would round away what is left.
        return mean_square(rows, tail_residual(rows.detach(), rank))


@torch.no_grad()
def tail_residual(rows: Tensor, rank: int) -> Tensor:
    """Z - Z V V^T with V the ``rank`` leading right singular vectors of Z, computed in float64: (R, C), float64.

    V comes from the Gram matrix of the smaller side (for C > R, Z - U U^T Z with the left vectors). On CUDA,
    torch.linalg.eigh reads its error code back to the host: one synchronisation a call, which has no variant without.

    Args:
        rows: Z, (R, C); values that are not finite give a residual that is not finite, and no error.
        rank: how many directions are taken away.
    """
    z = rows.to(torch.float64, copy=True)
    count, width = z.shape
    if rank >= min(count, width):
        return z.zero_()
    if rank == 0:
        return z
    gram = _compute_lower_gram(z if count < width else z.T)
    # eigh raises on NaN and infinity; the engine finds them in the loss, where it can name the step and the term.
    kept = torch.linalg.eigh(torch.nan_to_num(gram, nan=0.0, posinf=0.0, neginf=0.0))[1][:, -rank:].contiguous()
    if count < width:
        return z.addmm_(kept, kept.T @ z, alpha=-1.0)
    return z.addmm_(z @ kept, kept.T, alpha=-1.0)


def _compute_lower_gram(x: Tensor) -> Tensor:
    """X X^T (n, n), in full only below the diagonal: eigh reads no more, and a large product costs a third less."""
    n = x.shape[0]
    blocks = 4 if n >= 256 else 1
    gram = x.new_zeros(n, n)
    for block in range(blocks):
        first, last = block * n // blocks, (block + 1) * n // blocks
        gram[first:last, :last] = x[first:last] @ x[:last].T
    return gram


def mean_square(rows: Tensor, residual: Tensor) -> Tensor:
    """The mean square of ``residual`` as a function of ``rows``, whose gradient is 2 ``residual`` / (R C).

    Args:
        rows: (R, C), float32 or float64.
        residual: (R, C), ``rows`` less an orthogonal projection of them that is held; without gradient.

    Returns:
        A scalar of the type of ``rows``.
    """
    value: Tensor = _HeldResidual.apply(rows, residual)
    return value


class _HeldResidual(torch.autograd.Function):
    """With P an orthogonal projection, (I - P)^2 = I - P: the backward pass is the residual itself, no product more."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, residual: Tensor) -> Tensor:
        flat = residual.reshape(-1)
        value = (torch.dot(flat, flat) / flat.numel()).to(rows.dtype)
        ctx.save_for_backward(residual.to(rows.dtype))
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():  # backward runs with gradient only under create_graph
            raise StillhouseError(
                "the tail energy has no second derivative: the kept directions are constants",
                hint="leave the plugin 'spectral' out of what is differentiated with create_graph",
            )
        (residual,) = ctx.saved_tensors
        return residual * (grad * (2.0 / residual.numel())), None


def check_rows(rows: Tensor) -> None:
    """Refuse anything but a matrix of floating-point numbers with at least one element."""
    if rows.ndim != 2 or not rows.is_floating_point() or rows.numel() == 0:
        raise StillhouseError(
            f"rows must be a floating-point matrix (R, C), got {rows.dtype} of shape {format_shape(rows)}"
        )


def check_rank(rank: int) -> None:
    """Refuse a negative number of kept directions."""
    if rank < 0:
        raise StillhouseError(f"must be a whole number >= 0, got {rank}", where="rank")
