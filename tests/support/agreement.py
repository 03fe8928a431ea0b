"""Whether two readings of a formula agree: in value and in the student's gradient, in float64, over random shapes."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

Formula = Callable[[Tensor, Tensor], Tensor]

quick = settings(derandomize=True, deadline=None, max_examples=15)


def peer() -> ModuleType:
    """torchdistill's losses, where it is installed."""
    return pytest.importorskip("torchdistill.losses.mid_level", reason="torchdistill is not installed")


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64, of ``seed``."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def io(**layers: Tensor) -> dict[str, dict[str, Tensor]]:
    """Layers' outputs as torchdistill's losses get them."""
    return {name: {"output": x, "input": x} for name, x in layers.items()}


def assert_agree(ours: Formula, reference: Formula, student: Tensor, teacher: Tensor, factor: float = 1.0) -> None:
    """``ours`` is ``factor`` times ``reference``, and so is its gradient; both may be of float64 and stay so."""
    results = []
    for formula in (ours, reference):
        s = student.clone().requires_grad_()
        value = formula(s, teacher.clone())
        assert value.shape == ()
        assert value.dtype == torch.float64
        (gradient,) = torch.autograd.grad(value, s)
        results.append((value.detach(), gradient))
    (value, gradient), (wanted, slope) = results
    torch.testing.assert_close(value, factor * wanted, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(gradient, factor * slope, rtol=1e-7, atol=1e-9)


@st.composite
def map_pairs(pick: st.DrawFn, least: int = 2, *, same_width: bool = False) -> tuple[Tensor, Tensor]:
    """Maps of student and teacher (B, C, H, W) in float64, from ``least`` samples on, on one grid."""
    b, h, w = (pick(st.integers(low, high)) for low, high in ((least, 5), (2, 4), (2, 4)))
    ours = pick(st.integers(1, 4))
    theirs = ours if same_width else pick(st.integers(1, 4))
    seed = pick(st.integers(0, 10_000))
    return draw(b, ours, h, w, seed=seed), draw(b, theirs, h, w, seed=seed + 1)


@st.composite
def logit_pairs(pick: st.DrawFn, least: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of student and teacher (B, C) in float64, and labels (B,)."""
    b, c = pick(st.integers(least, 6)), pick(st.integers(2, 7))
    seed = pick(st.integers(0, 10_000))
    return 2 * draw(b, c, seed=seed), 2 * draw(b, c, seed=seed + 1), draw(b, c, seed=seed + 2).argmax(1)
