"""Distances of ``features`` against NumPy and SciPy in float64, and shapes that differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.spatial.distance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import FakeComposition, assembly_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stillhouse import StillhouseError
from stillhouse.contract.step import Link, Step
from stillhouse_features import Features, distance

torch.set_num_threads(1)
quick = settings(derandomize=True, deadline=None, max_examples=25)


class _NoSync(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails where a tensor's value is copied to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func), "a value was copied to the host"
        return func(*args, **(kwargs or {}))


def _model(*names: str) -> nn.Module:
    return nn.ModuleDict({n: nn.ModuleDict({"a": nn.Identity(), "b": nn.Identity()}) for n in names})


def _step(links: dict[str, tuple[Tensor, Tensor]]) -> Step:
    composition: Any = FakeComposition(links=list(links))
    return Step(
        batch=None, ids=torch.arange(2), inputs=None, targets=None, iteration=0, epoch=0, composition=composition,
        links={n: Link(n, s, t) for n, (s, t) in links.items()},
    )  # fmt: skip


def _features(**options: Any) -> Features:
    return Features(**{"name": "features", "links": [{"student": "s1", "teacher": "t1"}]} | options)


def _rows(x: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = x.detach().double().numpy()
    return (
        np.moveaxis(array, 1, -1).reshape(-1, array.shape[1]) if array.ndim == 4 else array.reshape(-1, array.shape[-1])
    )


def _mse(s: Tensor, t: Tensor) -> float:
    return float(np.mean((s.detach().double().numpy() - t.detach().double().numpy()) ** 2))


def _smooth(beta: float) -> Callable[[Tensor, Tensor], float]:
    def value(s: Tensor, t: Tensor) -> float:
        gap = np.abs(s.detach().double().numpy() - t.detach().double().numpy())
        return float(np.mean(np.where(gap < beta, gap**2 / (2 * beta) if beta else 0.0, gap - beta / 2)))

    return value


def _cos(s: Tensor, t: Tensor) -> float:
    return float(np.mean([scipy.spatial.distance.cosine(a, b) for a, b in zip(_rows(s), _rows(t), strict=True)]))


shapes = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 6)),
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)),
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)),
)


@quick
@given(shape=shapes, beta=st.sampled_from([0.0, 0.3, 1.0, 2.5]), seed=st.integers(0, 999))
def test_distances_are_the_textbooks(shape: tuple[int, ...], beta: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(shape, generator=g, dtype=torch.float64, requires_grad=True) for _ in "st")
    assert float(distance(s, t, "mse").detach()) == pytest.approx(_mse(s, t), rel=1e-9, abs=1e-12)
    assert float(distance(s, t, "smooth_l1", beta=beta).detach()) == pytest.approx(_smooth(beta)(s, t), rel=1e-9)
    assert float(distance(s, t, "cosine").detach()) == pytest.approx(_cos(s, t), rel=1e-9, abs=1e-12)
    # Central differences over both sides: the teacher may have been through a trainable projector.
    assert torch.autograd.gradcheck(lambda a, b: distance(a, b, "mse"), (s, t))
    assert torch.autograd.gradcheck(lambda a, b: distance(a, b, "smooth_l1", beta=beta), (s, t))
    assert torch.autograd.gradcheck(lambda a, b: distance(a, b, "cosine"), (s, t))
    single = distance(s.detach().float(), t.detach().float(), "cosine")
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(_cos(s, t), abs=1e-5)


def test_a_zero_row_has_no_direction_and_no_gradient() -> None:
    s = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    t = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    value = distance(s, t, "cosine")
    torch.autograd.backward(value)
    assert value.item() == 1.0
    assert s.grad is not None
    assert t.grad is not None
    assert torch.equal(s.grad, torch.zeros(2, 2))
    assert torch.equal(t.grad, torch.zeros(2, 2))


def test_the_distance_is_taken_on_own_links_alone() -> None:
    g = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(2, 3, generator=g), torch.randn(2, 3, generator=g)) for _ in range(4)]
    names = ["a[1]/x", "a[1]/y.b", "a1/x", "other/x"]
    step = _step(dict(zip(names, pairs, strict=True)))
    terms = _features(name="a[1]").losses(step)
    assert list(terms) == ["x", "y.b"]
    assert float(terms["y.b"]) == pytest.approx(_mse(*pairs[1]), rel=1e-6)
    only = _features(name="other", distance="cosine").losses(step)
    assert list(only) == [""]
    assert float(only[""]) == pytest.approx(_cos(*pairs[3]), abs=1e-6)
    assert _features(name="a[1]", distance="none").losses(step) == {}


@pytest.mark.parametrize(
    ("student", "teacher", "advice"),
    [((2, 3), (2, 5), "projector"), ((2, 3, 4, 4), (2, 5, 4, 4), "projector"), ((2, 4, 3), (2, 3), "pool both sides")],
)
def test_shapes_that_differ_are_refused_with_advice(
    student: tuple[int, ...], teacher: tuple[int, ...], advice: str
) -> None:
    step = _step({"features/s1": (torch.zeros(student), torch.zeros(teacher))})
    with pytest.raises(StillhouseError) as error:
        _features().losses(step)
    text = str(error.value)
    for part in ("link 'features/s1'", str(student), str(teacher), advice):
        assert part in text


def test_all_links_whose_shapes_differ_are_named_at_once() -> None:
    wrong = (torch.zeros(2, 3), torch.zeros(2, 5))
    step = _step({"features/a": wrong, "features/b": (wrong[0], wrong[0]), "features/c": wrong})
    with pytest.raises(StillhouseError) as error:
        _features().losses(step)
    assert [f.where for f in error.value.faults] == ["link 'features/a'", "link 'features/c'"]


def test_an_unknown_distance_is_refused() -> None:
    wrong: Any = "l3"
    with pytest.raises(StillhouseError, match="kind must be 'mse', 'smooth_l1' or 'cosine', got 'l3'"):
        distance(torch.zeros(1, 1), torch.zeros(1, 1), wrong)
    with pytest.raises(StillhouseError, match="beta: must be >= 0, got -1"):
        distance(torch.zeros(1, 1), torch.zeros(1, 1), "smooth_l1", beta=-1.0)


@pytest.mark.parametrize("kind", ["mse", "smooth_l1", "cosine"])
def test_a_step_copies_nothing_to_the_host(kind: Any) -> None:
    plugin = _features(distance=kind, links=[{"student": "s1", "teacher": "t1", "pool": "none"}])
    (spec,) = plugin.add_links(assembly_of(student=_model("s1"), teacher=_model("t1")))
    student, teacher = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 9, 3)
    assert spec.read is not None
    with _NoSync():  # type: ignore[no-untyped-call]
        pair = spec.read(student, teacher)
        terms = plugin.losses(_step({"features/s1": pair}))
        torch.autograd.backward(terms[""])
    assert student.grad is not None
    assert float(student.grad.abs().sum()) > 0.0
