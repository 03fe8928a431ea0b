"""Every plugin's matrices, of its parameters and buffers alike: singular values and the distance from orthogonality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

__all__ = ["compute_singular_values", "find_matrices", "measure_matrices", "measure_matrix"]

WIDEST = 1024
"""Of matrices whose shorter side is longer nothing is computed: at 1024 it takes a good part of a second on a processor."""


def find_matrices(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the matrices of a plugin's module by their path; convolutions with a kernel of 1x1 as the matrix they are.

    A weight that is parametrised is taken as it is used, and what it is computed from is left out.
    """
    for path, inner in module.named_modules():
        if ".parametrizations" in f".{path}":
            continue
        names = [*inner._parameters, *inner._buffers]
        if is_parametrized(inner):
            parametrised: nn.ModuleDict = inner.parametrizations
            names += list(parametrised)
        for name in names:
            value = getattr(inner, name)
            if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 2:
                continue
            if value.ndim > 2 and value.shape[2:].numel() > 1:
                continue
            matrix = value.detach().reshape(len(value), -1)
            if min(matrix.shape) >= 2 and min(matrix.shape) <= WIDEST and matrix.numel() <= WIDEST * WIDEST * 4:
                yield f"{path}.{name}" if path else name, matrix


def compute_singular_values(matrix: Tensor) -> Tensor:
    """Those of a matrix (N, M), the largest first, float32 at least; NaN where a value is not finite."""
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    finite = wide.isfinite().all()
    return torch.where(finite, torch.linalg.svdvals(torch.where(finite, wide, 0.0)), torch.nan)


def measure_matrix(matrix: Tensor, values: Tensor | None = None) -> dict[str, Tensor]:
    """Of a matrix (N, M): ``largest`` and ``least`` singular value, their ``condition``, ``orthogonality_error``.

    The error is max |W^T W - I| of the shorter side. The condition of a matrix without full rank is infinite, up to
    rounding.

    All are NaN where a value is not finite. ``values``: its singular values, where they are known.
    """
    values = compute_singular_values(matrix) if values is None else values
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    tall = wide if len(wide) >= wide.shape[1] else wide.mT
    gram = tall.mT @ tall
    error = (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max()
    largest, least = values.max(), values.min()
    return {"largest": largest, "least": least, "condition": largest / least, "orthogonality_error": error}


@torch.no_grad()
def measure_matrices(modules: Mapping[str, nn.Module]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The figures of every matrix of every plugin's module, by tag, ``singular_largest/PLUGIN/PATH``, and singular values."""
    found, spectra = {}, {}
    for plugin, module in modules.items():
        for path, matrix in find_matrices(module):
            spectra[f"{plugin}/{path}"] = values = compute_singular_values(matrix)
            for figure, value in measure_matrix(matrix, values).items():
                kind = figure if figure == "orthogonality_error" else f"singular_{figure}"
                found[f"{kind}/{plugin}/{path}"] = value
    return found, spectra
