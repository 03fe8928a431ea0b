"""The normalizer's kinds as textbooks have them, in float64."""

# mypy: disable-error-code="no-untyped-call"
# torch's stubs leave Tensor.backward and TorchDispatchMode untyped.

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from torch import Tensor


def reference(rows: Tensor, kind: str, eps: float, method: str = "cholesky") -> Any:
    """The textbook, in float64 NumPy and SciPy, d x d whatever the shape."""
    x = rows.detach().double().numpy()
    if kind == "layer":
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + eps)
    if kind == "batch":
        return (x - x.mean(0)) / np.sqrt(x.var(0, ddof=1) + eps)
    if kind == "l2":
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), eps)
    if kind == "rms":
        return x / np.sqrt((x**2).mean() + eps)
    shrunk = (1 - eps) * np.atleast_2d(np.cov(x, rowvar=False)) + eps * np.eye(x.shape[1])
    centred = x - x.mean(0)
    if method == "cholesky":
        return scipy.linalg.solve_triangular(np.linalg.cholesky(shrunk), centred.T, lower=True).T
    return centred @ np.linalg.inv(scipy.linalg.sqrtm(shrunk).real)
