"""Whitening: rows with mean 0 and covariance I over the batch, by Cholesky or ZCA, in float64.

Centred rows X (R, C), covariance C = X^T X / (R - 1), shrunk to S = (1 - eps) C + eps I, then

- ``cholesky``: X L^{-T} with S = L L^T;
- ``zca``: X S^{-1/2}, the whitened rows nearest to X. The two differ by a rotation of the channels.

Source: VkD (2403.06213, section 3.4; centring, divisor and shrinkage as in its poster). Everything is float64: S has a condition number up to
(largest variance) / eps, and in float32 both factorisations lose it (NaN, failure or percents of error on singular
batches).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from stillhouse import StillhouseError
from stillhouse_normalizer.standardisation import require_two_rows

__all__ = ["SINGULAR_EPS", "compute_condition", "compute_inverse_root", "whiten"]

SINGULAR_EPS = 1e-3
"""The least shrinkage where the batch has no more rows than channels, so that the covariance is singular."""


def whiten(rows: Tensor, eps: float = 1e-3, method: Literal["cholesky", "zca"] = "cholesky") -> Tensor:
    """Whiten the rows (R, C) of the batch; same shape, in float64.

    ZCA takes the smaller of two Gram matrices: with K = X X^T / (R - 1), X S^{-1/2} = ((1 - eps) K + eps I)^{-1/2} X,
    which is exact and needs an R x R eigendecomposition only. Cholesky factors S whatever the shape: S is definite.
    Where R <= C, an ``eps`` below 1e-3 is raised to it: with less, all rows come out equally far from each other,
    whatever they were.

    Gradients flow through the statistics and are finite, at repeated eigenvalues too.

    Args:
        rows: (R, C), R >= 2.
        eps: shrinkage towards the identity, 0 < eps < 1, in units of the features' variance.
        method: ``cholesky`` or ``zca``.

    Raises:
        StillhouseError: fewer than two rows, or ``eps`` out of range.
    """
    if not 0.0 < eps < 1.0:
        raise StillhouseError(f"must be in (0, 1), got {eps}", where="eps", hint="1e-3 is usual")
    count, width = rows.shape
    require_two_rows(count, "whiten")
    if count <= width:
        eps = max(eps, SINGULAR_EPS)
    x = rows.double()
    x = x - x.mean(dim=0)
    if method == "cholesky":
        return _whiten_by_cholesky(x, eps)
    if count <= width:
        return compute_inverse_root(x @ x.mT / (count - 1), eps) @ x
    return x @ compute_inverse_root(x.mT @ x / (count - 1), eps)


def compute_condition(rows: Tensor, eps: float) -> Tensor:
    """The condition number of what :func:`whiten` takes the root of, (1 - eps) C + eps I of the rows (R, C), as a scalar.

    From the eigenvalues of the smaller Gram matrix: where there are fewer rows than channels, the least is eps.
    """
    count, width = rows.shape
    if count <= width:
        eps = max(eps, SINGULAR_EPS)
    x = rows.double()
    x = x - x.mean(dim=0)
    gram = (x @ x.mT if count <= width else x.mT @ x) / (count - 1)
    finite = gram.isfinite().all()
    values = torch.linalg.eigvalsh(torch.where(finite, gram, 0.0)).clamp_min(0.0) * (1.0 - eps) + eps
    least = values.min() if count > width else values.new_tensor(eps)
    return torch.where(finite, values.max() / least, torch.nan)


def _whiten_by_cholesky(x: Tensor, eps: float) -> Tensor:
    """X L^{-T} for centred rows X (R, C), whatever R: the shrunk covariance is definite in float64."""
    shrunk = (x.mT @ x) * ((1.0 - eps) / (x.shape[0] - 1))
    # Where the variance is so large that eps drowns in rounding, the second term keeps the matrix definite.
    rounding = x.shape[1] * torch.finfo(x.dtype).eps
    shrunk.diagonal().add_(eps + rounding * shrunk.detach().diagonal().sum())
    # The _ex form does not read the error code back, so it does not wait for the device.
    lower, _info = torch.linalg.cholesky_ex(shrunk)
    white: Tensor = torch.linalg.solve_triangular(lower.mT, x, upper=True, left=False)
    return white


def compute_inverse_root(gram: Tensor, eps: float) -> Tensor:
    """((1 - eps) G + eps I)^{-1/2} of a symmetric positive semidefinite G (N, N); differentiable as often as one likes.

    On CUDA ``eigh`` reads its error code back and so waits for the device: with ``zca`` that cannot be avoided.

    Args:
        gram: G (N, N), float64.
        eps: shrinkage, 0 < eps < 1.
    """
    root: Tensor = _InverseRoot.apply(gram, eps)
    return root


class _InverseRoot(torch.autograd.Function):
    """f(G) = U f(l) U^T with f(l) = ((1 - eps) l + eps)^{-1/2}.

    The gradient is Daleckii and Krein's (Higham, Functions of Matrices, 2008, theorem 3.11): U (F * (U^T g U)) U^T with
    the divided differences F_ij = (f(l_i) - f(l_j)) / (l_i - l_j). With s = sqrt((1 - eps) l + eps) the difference in
    the denominator cancels, F_ij = -(1 - eps) / (s_i s_j (s_i + s_j)), so repeated eigenvalues are no special case:
    differentiating ``eigh`` itself would divide by zero there.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor, eps: float) -> Tensor:
        # eigh raises on non-finite input; like every other kind, this one gives NaN there and lets the run report it.
        finite = torch.isfinite(gram).all()
        values, vectors = torch.linalg.eigh(torch.where(finite, gram, 0.0))
        s = torch.sqrt(values.clamp_min(0.0) * (1.0 - eps) + eps)
        s = torch.where(finite, s, torch.nan)
        ctx.save_for_backward(gram, s, vectors)
        ctx.slope = 1.0 - eps
        root: Tensor = (vectors / s) @ vectors.mT
        return root

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        gram, s, vectors = ctx.saved_tensors
        grad = (grad + grad.mT) / 2
        if torch.is_grad_enabled():  # somebody wants to differentiate this once more
            return ctx.slope * _differentiate_inverse_root(gram, grad, s, vectors, ctx.slope), None
        inner = vectors.mT @ grad @ vectors
        inner = inner * (-ctx.slope / (s[:, None] * s[None, :] * (s[:, None] + s[None, :])))
        return vectors @ inner @ vectors.mT, None


def _differentiate_inverse_root(gram: Tensor, grad: Tensor, s: Tensor, vectors: Tensor, slope: float) -> Tensor:
    """The gradient with respect to A = (1 - eps) G + eps I, as a function that can be differentiated again.

    With S^2 = A, the inverse root R solves S R + R S = 2 I, and its derivative follows from two more such equations. In
    the eigenvectors of A this is the closed form of :class:`_InverseRoot`.
    """
    identity = torch.eye(len(s), dtype=gram.dtype, device=gram.device)
    root = _Root.apply(gram * slope + (1.0 - slope) * identity, s, vectors)
    inverse = _Sylvester.apply(root, 2 * identity, s, vectors)
    y = _Sylvester.apply(root, grad, s, vectors)
    found: Tensor = _Sylvester.apply(root, -(y @ inverse + inverse @ y), s, vectors)
    return found


class _Root(torch.autograd.Function):
    """S with S^2 = A, of the eigenvalues s^2 and eigenvectors of A; differentiable as often as one likes."""

    @staticmethod
    def forward(ctx: Any, _matrix: Tensor, s: Tensor, vectors: Tensor) -> Tensor:
        root: Tensor = (vectors * s) @ vectors.mT
        ctx.save_for_backward(root, s, vectors)
        return root

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        root, s, vectors = ctx.saved_tensors
        return _Sylvester.apply(root, (grad + grad.mT) / 2, s, vectors), None, None


class _Sylvester(torch.autograd.Function):
    """X with S X + X S = C, for S of eigenvalues s > 0; differentiable as often as one likes."""

    @staticmethod
    def forward(ctx: Any, root: Tensor, right: Tensor, s: Tensor, vectors: Tensor) -> Tensor:
        x: Tensor = vectors @ ((vectors.mT @ right @ vectors) / (s[:, None] + s[None, :])) @ vectors.mT
        ctx.save_for_backward(root, x, s, vectors)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        root, x, s, vectors = ctx.saved_tensors
        y = _Sylvester.apply(root, grad, s, vectors)
        return -(y @ x.mT + x.mT @ y), y, None, None
