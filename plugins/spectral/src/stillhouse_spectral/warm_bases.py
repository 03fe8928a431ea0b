"""The approximate tail energy: the leading directions follow the features from step to step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stillhouse import StillhouseError
from stillhouse.layout import format_shape, full_precision
from stillhouse_spectral.energy import check_rank, check_rows, mean_square

__all__ = ["WarmBases", "basis_width", "follow", "warm_tail_energy"]

_SPARE = 8
_SWEEPS = 8


class WarmBases(nn.Module):
    """One orthonormal basis per layer, in buffers: a resumed run goes on from the same directions.

    Args:
        widths: channels C of each layer, by its path.
        rank: how many directions are kept.
    """

    def __init__(self, widths: Mapping[str, int], rank: int) -> None:
        super().__init__()
        check_rank(rank)
        self._keys = {layer: f"basis_{index}" for index, layer in enumerate(widths)}
        for layer, width in widths.items():
            start = torch.randn(width, basis_width(width, rank))
            self.register_buffer(self._keys[layer], torch.linalg.qr(start)[0])

    def basis(self, layer: str) -> Tensor:
        """The buffer (C, K) of ``layer``."""
        return self.get_buffer(self._keys[layer])


def basis_width(width: int, rank: int) -> int:
    """K, how many directions are carried to keep ``rank`` of ``width``: twice as many, at least 8 spare.

    Each step only sees how its batch acts within these directions and one product further, so the spare ones decide
    how well a fresh batch's own leading directions are met.
    """
    return min(width, rank + max(rank, _SPARE))


def warm_tail_energy(rows: Tensor, basis: Tensor, rank: int) -> Tensor:
    """:func:`tail_energy` with the first ``rank`` columns of ``basis`` in place of the leading singular vectors.

    An upper bound of the tail energy, with equality when they are those. The basis is held: the gradient is
    2 (Z - Z V V^T) / (R C).

    Args:
        rows: Z, (R, C).
        basis: (C, K), orthonormal columns, K >= ``rank``.
        rank: how many directions are kept; from min(R, C) on the value and the gradient are 0.

    Raises:
        StillhouseError: the shapes do not fit, or ``rank`` is negative.
    """
    check_rows(rows)
    check_rank(rank)
    _check_basis(rows, basis, rank)
    with full_precision(rows), torch.no_grad():
        z = rows.detach().to(torch.promote_types(rows.dtype, torch.float32))
        if rank >= min(z.shape):
            residual = torch.zeros_like(z)
        else:
            kept = basis[:, :rank].to(z.dtype)
            residual = torch.addmm(z, z @ kept, kept.T, alpha=-1.0)
    return mean_square(rows.to(residual.dtype), residual)


@torch.no_grad()
def follow(rows: Tensor, basis: Tensor) -> Tensor:
    """One step of subspace iteration from ``basis`` towards the leading right singular vectors of ``rows``.

    Z^T Z V, orthonormalised by QR; then, within these K directions, the K x K matrix of energies is diagonalised by
    orthogonal iteration on its square in float64, so that the first columns carry the most energy. Nothing here waits
    for the device: torch.linalg.eigh, shorter for the second part, would. QR stays orthonormal for any finite input;
    a batch of zeros, or one that is not finite, leaves the basis as it was.

    Args:
        rows: Z, (R, C), float32.
        basis: (C, K), orthonormal columns.

    Returns:
        The new basis (C, K); ``basis`` is not changed.
    """
    check_rows(rows)
    _check_basis(rows, basis, 0)
    with full_precision(rows):
        z = rows.detach().to(basis.dtype)
        # As ((Z V)^T Z)^T, three times as fast here as Z^T (Z V).
        found = torch.linalg.qr(((z @ basis).T @ z).T)[0]
        # MPS has no float64; there the small problem stays in float32.
        wide = basis.dtype if z.device.type == "mps" else torch.float64
        seen = (z @ found).to(wide)
        energy = seen.T @ seen
        total = energy.diagonal().sum()
        # Only the square: a higher power would lose directions of a thousandth of the first one's energy.
        energy = energy / total.clamp_min(torch.finfo(wide).tiny)
        energy = energy @ energy
        turn = torch.eye(energy.shape[0], dtype=wide, device=z.device)
        for _ in range(_SWEEPS):
            turn = torch.linalg.qr(energy @ turn)[0]
        new = found @ turn.to(basis.dtype)
        usable = torch.isfinite(new).all() & (total > 0.0)
        return torch.where(usable, new, basis)


def _check_basis(rows: Tensor, basis: Tensor, rank: int) -> None:
    if basis.ndim != 2 or basis.shape[0] != rows.shape[1] or not rank <= basis.shape[1] <= basis.shape[0]:
        raise StillhouseError(
            f"a basis must be ({rows.shape[1]}, K) with K from {rank} to {rows.shape[1]}, got {format_shape(basis)}"
        )
