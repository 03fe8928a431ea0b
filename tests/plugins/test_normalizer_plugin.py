"""The normalizer as a plugin: layouts, precision, which sides it rewrites, refusals, no host reads."""

# mypy: disable-error-code="no-untyped-call"
# torch's stubs leave Tensor.backward and TorchDispatchMode untyped.

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support import FakeComposition, assembly_of
from support.normalizations import reference
from torch.utils._python_dispatch import TorchDispatchMode

from stillhouse import Link, Step, StillhouseError, StillhouseWarning
from stillhouse_normalizer import Normalizer, normalize, whiten
from stillhouse_normalizer.conditions import Conditions

torch.set_num_threads(1)

KINDS = ("layer", "batch", "whiten", "l2", "rms")
METHODS = ("cholesky", "zca")


def make_step(links: list[Link]) -> Step:
    composition: Any = FakeComposition([link.name for link in links], Conditions(1e-3, gather=True))
    return Step(
        batch=None,
        ids=torch.arange(2),
        inputs=None,
        targets=None,
        iteration=0,
        epoch=0,
        composition=composition,
        links={link.name: link for link in links},
    )


def pair(d_s: int = 5, d_t: int = 8, rows: int = 4, name: str = "features/a") -> Link:
    return Link(name, torch.randn(rows, d_s), torch.randn(rows, d_t))


# --- layouts and precision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_agree(kind: Any) -> None:
    torch.manual_seed(0)
    maps = torch.randn(4, 6, 3, 2)
    tokens = maps.flatten(2).mT
    found = normalize(maps, kind, 1e-3)
    assert found.shape == maps.shape
    assert torch.allclose(found.flatten(2).mT, normalize(tokens, kind, 1e-3), atol=1e-6)
    rows = normalize(tokens.reshape(-1, 6), kind, 1e-3)
    assert torch.allclose(normalize(tokens, kind, 1e-3).reshape(-1, 6), rows, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_under_autocast(kind: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = normalize(x, kind, 1e-3)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, normalize(x.float(), kind, 1e-3))


# --- the plugin ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["teacher", "student", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_transform_rewrites_the_chosen_sides(kind: Any, side: Any) -> None:
    torch.manual_seed(0)
    link = pair()
    student, teacher = link.student.requires_grad_(), link.teacher
    Normalizer(kind=kind, side=side).transform(make_step([link]))
    eps = {"layer": 1e-5, "batch": 1e-5, "whiten": 1e-3, "l2": 1e-12, "rms": 1e-12}[kind]
    for name, before, after in (("student", student, link.student), ("teacher", teacher, link.teacher)):
        if side in (name, "both"):
            assert np.abs(after.detach().double().numpy() - reference(before, kind, eps)).max() < 1e-4
            assert after.requires_grad == (name == "student")
        else:
            assert after is before


def test_links_are_chosen_by_glob() -> None:
    a, b = pair(name="features/a"), pair(name="features/b")
    before = a.teacher
    Normalizer(links="features/b").transform(make_step([a, b]))
    assert a.teacher is before
    assert b.teacher.mean(1).abs().max() < 1e-6


def test_build_makes_no_module() -> None:
    assert Normalizer().build(assembly_of([pair()])) is None


def test_one_row_is_refused_where_statistics_need_two() -> None:
    for kind in ("batch", "whiten"):
        with pytest.raises(StillhouseError, match=r"needs at least 2 rows in a batch, got 1.*larger batch"):
            normalize(torch.randn(1, 4), kind, 1e-3)
        assert normalize(torch.randn(1, 4, 2, 1), kind, 1e-3).isfinite().all(), "two positions are two rows"
        with pytest.raises(StillhouseError, match=r"link 'features/a', teacher.*in a batch, got 1"):
            Normalizer(kind=kind).build(assembly_of([pair()], batch_size=1))
    for kind in ("layer", "l2", "rms"):
        assert normalize(torch.randn(1, 4), kind, 1e-3).isfinite().all()  # type: ignore[arg-type]


def test_a_small_eps_is_refused_where_a_whole_batch_is_singular() -> None:
    wide = Link("features/a", torch.randn(2, 8), torch.randn(2, 64))
    with pytest.raises(StillhouseError) as caught:
        Normalizer(kind="whiten", eps=1e-4, side="both").build(assembly_of([wide], batch_size=64))
    assert len(caught.value.faults) == 1, "the student's 8 channels are fine"
    for part in ("features/a", "teacher", "64 rows of 64 channels", "must be >= 0.001"):
        assert part in str(caught.value)
    Normalizer(kind="whiten", eps=1e-4).build(assembly_of([wide], batch_size=65))
    Normalizer(kind="whiten", eps=1e-3).build(assembly_of([wide], batch_size=8))
    maps = Link("features/a", torch.randn(2, 8, 4, 4), torch.randn(2, 64, 4, 4))
    Normalizer(kind="whiten", eps=1e-4).build(assembly_of([maps], batch_size=5))
    with pytest.raises(StillhouseError, match="64 rows of 64 channels"):
        Normalizer(kind="whiten", eps=1e-4).build(assembly_of([maps], batch_size=4))


def test_bad_input_is_named() -> None:
    for eps in (0.0, -1.0, float("nan")):
        with pytest.raises(StillhouseError, match="eps"):
            Normalizer(eps=eps)
    with pytest.raises(StillhouseError, match="must be < 1, got"):
        Normalizer(kind="whiten", eps=1.0)
    with pytest.raises(StillhouseError, match=r"must be in \(0, 1\), got"):
        whiten(torch.randn(4, 3), 0.0)
    with pytest.raises(StillhouseError, match=r"must be one of .*, got 'layr'"):
        Normalizer(kind="layr")  # type: ignore[arg-type]
    with pytest.warns(StillhouseWarning, match="whitening = 'zca' has no effect"):
        Normalizer(whitening="zca")
    with pytest.raises(StillhouseError, match="'nothing' matches no link"):
        Normalizer(links="nothing").build(assembly_of([pair()]))
    with pytest.raises(StillhouseError, match="at least 2 channels, got 1"):
        Normalizer().build(assembly_of([pair(d_t=1)]))
    with pytest.raises(StillhouseError, match=r"'features/a', teacher.*must be vectors"):
        Normalizer().build(assembly_of([Link("features/a", torch.randn(4, 2), torch.randn(4))]))


class NoHostRead(TorchDispatchMode):
    """Fails where a tensor's value is read back."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "local_scalar_dense" not in str(func), "a tensor's value was read back in the step"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [4, 20])
def test_nothing_in_the_step_reads_a_value_back(kind: Any, rows: int) -> None:
    for whitening in METHODS if kind == "whiten" else METHODS[:1]:
        link = pair(rows=rows)
        link.student.requires_grad_()
        with NoHostRead():
            Normalizer(kind=kind, side="both", whitening=whitening).transform(make_step([link]))  # type: ignore[arg-type]
            link.student.sum().backward()
        assert link.student.isfinite().all()


# --- what whitening has to undo ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20, 5), (6, 9), (4, 5, 3), (4, 3, 2, 2)])
def test_the_condition_of_what_is_whitened_is_logged_by_link_and_side(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape) * 3
    step, plugin = make_step([Link("features/a", torch.randn(4, 2), x)]), Normalizer(kind="whiten")
    plugin.transform(step)
    (found,) = plugin.scalars(step).items()
    rows = np.moveaxis(x.double().numpy(), 1, -1) if x.ndim == 4 else x.double().numpy()
    covariance = np.cov(rows.reshape(-1, shape[2] if len(shape) == 3 else shape[1]), rowvar=False)
    wanted = np.linalg.cond((1 - 1e-3) * covariance + 1e-3 * np.eye(len(covariance)))
    assert found[0] == "condition_teacher/features/a"
    assert found[1].item() == pytest.approx(wanted, rel=1e-6)
    assert not step.module(plugin).state_dict(), "no part of a checkpoint"
    assert Normalizer(kind="layer").scalars(step) == {}
