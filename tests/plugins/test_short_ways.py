"""The short ways that most steps take give what the long ones give, and leave to those whatever they do not know."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.projections import make_step
from torch import Tensor, nn

from stillhouse import Link, StillhouseError
from stillhouse_features import LinkOptions, distance, read_pair
from stillhouse_features.alignment import make_reader
from stillhouse_logits import soft_target_divergence
from stillhouse_normalizer import Normalizer, normalize
from stillhouse_normalizer.standardisation import standardise_together
from stillhouse_projector.maps import make_map
from stillhouse_projector.projectors import Projectors

quick = settings(derandomize=True, deadline=None, max_examples=40)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
SHAPES = st.sampled_from([(3, 4), (3, 5, 4), (3, 4, 2, 2), (3, 4, 3, 1)])


def draw(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def autocast(on: bool) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16) if on else nullcontext()


def result_of(read: Callable[..., tuple[Tensor, Tensor]], *sides: Tensor) -> tuple[Tensor, Tensor] | str:
    """What it gives, or what it says instead."""
    try:
        return read(*sides)
    except StillhouseError as error:
        return str(error)


@quick
@given(SHAPES, SHAPES, DTYPES, DTYPES, st.sampled_from(["mean", "none"]), st.booleans())
def test_a_reader_reads_as_read_pair_does(
    first: tuple[int, ...], second: tuple[int, ...], d1: torch.dtype, d2: torch.dtype, pool: Any, on: bool
):
    options = LinkOptions(student="s", teacher="t", pool=pool)
    student, teacher = draw(first, d1, 0).requires_grad_(), draw(second, d2, 1)
    with autocast(on):
        wanted = result_of(partial(read_pair, options=options), student, teacher)
        got = result_of(make_reader(options), student, teacher)
    if isinstance(wanted, str) or isinstance(got, str):
        assert got == wanted
        return
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    (gradient,) = torch.autograd.grad(got[0].sum(), student)
    assert torch.equal(gradient, torch.autograd.grad(wanted[0].sum(), student)[0])


def test_a_reader_names_batches_that_differ():
    read = make_reader(LinkOptions(student="s", teacher="t"))
    with pytest.raises(StillhouseError, match="one batch as first dimension, got 2 and 3"):
        read(torch.ones(2, 1, 2, 2), torch.ones(3, 1, 2, 2))


@quick
@given(SHAPES, DTYPES, st.booleans())
def test_distance_and_layer_normalisation_are_float32_or_wider_whatever_autocast_says(
    shape: tuple[int, ...], dtype: torch.dtype, on: bool
):
    student, teacher = draw(shape, dtype, 0), draw(shape, dtype, 1)
    with autocast(on):
        found, normal = distance(student, teacher), normalize(teacher, "layer", 1e-5)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    assert found.dtype is normal.dtype is wide
    exact = (student.double() - teacher.double()).square().mean()
    assert torch.allclose(found.double(), exact, rtol=1e-5)
    rows = teacher.double().movedim(1, -1) if len(shape) == 4 else teacher.double()
    wanted = (rows - rows.mean(-1, keepdim=True)) / (rows.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    got = normal.double().movedim(1, -1) if len(shape) == 4 else normal.double()
    assert torch.allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "mlp", "orthogonal"])
@pytest.mark.parametrize("on", [False, True])
def test_a_projector_maps_rows_in_float32_whatever_autocast_says(kind: Any, on: bool):
    made = make_map(kind, 4, 6)
    projectors = Projectors({"features/a": made}, {"features/a": 4})
    for x in (draw((3, 4), torch.float32, 0), draw((3, 4), torch.bfloat16, 0), draw((3, 4, 2, 2), torch.float32, 0)):
        rows = x.float().movedim(1, -1).reshape(-1, 4) if x.ndim == 4 else x.float()
        with autocast(on):
            got = projectors("features/a", x)
        assert got.dtype is torch.float32
        flat = got.movedim(1, -1).reshape(-1, 6) if x.ndim == 4 else got
        assert torch.allclose(flat, made(rows), atol=1e-6)
    with pytest.raises(StillhouseError, match="4 channels"):
        projectors("features/a", torch.ones(3, 5))
    with pytest.raises(StillhouseError, match="no projection"):
        projectors("features/b", torch.ones(3, 4))


@quick
@given(SHAPES, DTYPES, DTYPES, st.booleans(), st.sampled_from([0.5, 1.0, 4.0]))
def test_the_divergence_is_float32_or_wider_whatever_autocast_says(
    shape: tuple[int, ...], d1: torch.dtype, d2: torch.dtype, on: bool, temperature: float
):
    student, teacher = draw(shape, d1, 0).requires_grad_(), draw(shape, d2, 1)
    with autocast(on):
        found = soft_target_divergence(student, teacher, temperature)
    assert found.dtype is (torch.float64 if torch.float64 in (d1, d2) else torch.float32)
    s, t = (
        (x.double().movedim(1, -1) if len(shape) == 4 else x.double()).reshape(-1, 4) / temperature
        for x in (student, teacher)
    )
    rows = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=t), torch.distributions.Categorical(logits=s)
    )
    wanted = rows.mean() * temperature**2
    assert torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-6)
    (got,), (exact,) = torch.autograd.grad(found, student), torch.autograd.grad(wanted, student)
    assert torch.allclose(got.double(), exact.double(), atol=2e-2 if d1 in (torch.float16, torch.bfloat16) else 1e-5)


@pytest.mark.parametrize("links", [3, 4, 9])
@pytest.mark.parametrize("kind", ["vectors", "maps", "widths", "half", "gradient"])
def test_many_teachers_are_standardised_together_bit_for_bit(links: int, kind: str):
    shapes = {"maps": [(5, 4, 2, 2)] * links, "widths": [(5, 4 + i % 2) for i in range(links)]}.get(
        kind, [(5, 4)] * links
    )
    dtype = torch.float16 if kind == "half" else torch.float32
    features = [draw(shape, dtype, i).requires_grad_(kind == "gradient" and i == 1) for i, shape in enumerate(shapes)]
    step = make_step(nn.Identity(), [Link(f"features/{i}", x, x) for i, x in enumerate(features)])
    Normalizer(kind="layer").transform(step)
    for link, x in zip(step.links.values(), features, strict=True):
        assert torch.equal(link.teacher, normalize(x, "layer", 1e-5))
        # A term on one link reaches no other's parameters.
        assert link.teacher.requires_grad == x.requires_grad
        assert link.student is x
    assert (standardise_together(features) is None) == (kind != "vectors")
