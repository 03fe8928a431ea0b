"""stillhouse-logits: the divergence against SciPy and the textbook in float64, its gradient and its limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stillhouse import StillhouseError
from stillhouse.contract.step import Side, Step
from stillhouse_logits import Logits, soft_target_divergence

torch.set_num_threads(1)
quick = settings(derandomize=True, deadline=None, max_examples=40)
Array = np.ndarray[Any, np.dtype[np.float64]]


class _NoSync(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails where a tensor's value is copied to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func), "a value was copied to the host"
        return func(*args, **(kwargs or {}))


def _step(student: Any, teacher: Any) -> Step:
    composition: Any = None
    return Step(
        batch=None, ids=torch.arange(2), inputs=None, targets=None, iteration=0, epoch=0, composition=composition,
        student=Side(output=student), teacher=None if teacher is None else Side(output=teacher),
    )  # fmt: skip


def _rows(x: Tensor) -> Array:
    """Rows of classes in float64."""
    array: Array = x.detach().double().numpy()
    if array.ndim == 4:
        array = np.moveaxis(array, 1, -1)
    return array.reshape(-1, array.shape[-1])


def _reference(student: Tensor, teacher: Tensor, t: float) -> tuple[float, Array]:
    """SciPy's relative entropy of softmaxes and the textbook's gradient in rows: T (q - p) / R."""
    p = scipy.special.softmax(_rows(teacher) / t, axis=1)
    q = scipy.special.softmax(_rows(student) / t, axis=1)
    return float(np.mean(scipy.stats.entropy(p, q, axis=1)) * t * t), t * (q - p) / len(p)


shapes = st.one_of(
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 6)),
    st.tuples(st.integers(1, 3), st.integers(2, 6), st.integers(1, 3), st.integers(1, 3)),
)


@quick
@given(
    shape=shapes, t=st.sampled_from([0.5, 1.0, 4.0, 20.0]), scale=st.sampled_from([0.1, 3.0]), seed=st.integers(0, 999)
)
def test_it_is_hintons_with_its_gradient(shape: tuple[int, ...], t: float, scale: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    s, teacher = (torch.randn(shape, generator=g, dtype=torch.float64) * scale for _ in "st")
    expected, gradient = _reference(s, teacher, t)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        x = s.to(dtype).requires_grad_()
        value = soft_target_divergence(x, teacher.to(dtype), t)
        assert value.dtype == dtype
        assert value.shape == ()
        assert float(value.detach()) == pytest.approx(expected, rel=tolerance, abs=tolerance * max(1.0, t * t))
        (got,) = torch.autograd.grad(value, x)
        np.testing.assert_allclose(_rows(got), gradient, atol=tolerance * max(1.0, t))


def test_a_large_temperature_compares_centred_logits() -> None:
    g = torch.Generator().manual_seed(0)
    s, t = (torch.randn(5, 7, generator=g, dtype=torch.float64, requires_grad=True) for _ in "st")
    (gradient,) = torch.autograd.grad(soft_target_divergence(s, t.detach(), 1e4), s)
    gap = (s - s.mean(1, keepdim=True) - t + t.mean(1, keepdim=True)).detach()
    torch.testing.assert_close(gradient, gap / (7 * 5), atol=1e-5, rtol=0.0)
    value = soft_target_divergence(s, t, 1e4)
    assert float(value.detach()) == pytest.approx(float((gap**2).sum() / (2 * 7 * 5)), rel=1e-3)


def test_equal_logits_and_shifted_logits_give_zero() -> None:
    s = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert float(soft_target_divergence(s, s + 3.0, 2.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(soft_target_divergence(s, s.flip(1), 2.0)) > 1e-3


def test_extreme_logits_stay_finite() -> None:
    s = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    value = soft_target_divergence(s, -s.detach(), 1.0)
    (gradient,) = torch.autograd.grad(value, s)
    assert float(value.detach()) == pytest.approx(2e4)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, 0.0, -1.0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    s, t = (torch.randn(8, 10, generator=g).to(dtype) for _ in "st")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = soft_target_divergence(s, t, 3.0)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(_reference(s, t, 3.0)[0], rel=1e-5)


def test_the_plugin_reads_the_outputs_without_a_copy_to_the_host() -> None:
    g = torch.Generator().manual_seed(0)
    s, t = torch.randn(3, 4, 2, 2, generator=g, requires_grad=True), torch.randn(3, 4, 2, 2, generator=g)
    with _NoSync():  # type: ignore[no-untyped-call]
        terms = Logits(temperature=2).losses(_step(s, t))
        torch.autograd.backward(terms[""])
    expected, gradient = _reference(s, t, 2.0)
    assert list(terms) == [""]
    assert float(terms[""].detach()) == pytest.approx(expected, rel=1e-5)
    assert s.grad is not None
    np.testing.assert_allclose(_rows(s.grad), gradient, atol=1e-6)


def test_defaults_and_declarations() -> None:
    made = Logits()
    assert (made.temperature, made.weight) == (4.0, 1.0)
    assert made.requires == ("teacher",)
    assert made.shorthand == "temperature"


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_softens_nothing_is_refused(temperature: float) -> None:
    with pytest.raises(StillhouseError, match=r"temperature: must be (finite|> 0 and at most 10,000), got"):
        Logits(temperature=temperature)
    with pytest.raises(StillhouseError, match=r"temperature: must be finite and > 0, got"):
        soft_target_divergence(torch.zeros(1, 2), torch.zeros(1, 2), temperature)


def test_a_temperature_that_float32_has_no_digits_for_is_refused() -> None:
    with pytest.raises(StillhouseError, match=r"temperature: must be > 0 and at most 10,000, got 1e\+308"):
        Logits(temperature=1e308)
    assert Logits(temperature=10_000).temperature == 1e4


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [
        (torch.zeros(2, 10), torch.zeros(2, 100), ["(2, 10)", "(2, 100)", "10 and 100 classes"]),
        (torch.zeros(2, 5, 8, 8), torch.zeros(2, 5, 4, 4), ["(2, 5, 8, 8)", "(2, 5, 4, 4)", "one shape"]),
        (torch.zeros(2, 5), torch.zeros(2, 5, 4, 4), ["(2, 5)", "(2, 5, 4, 4)", "one shape"]),
        (torch.zeros(4), torch.zeros(4), ["(4,)", "must be vectors"]),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3), ["torch.int64", "floating-point logits"]),
        ({"out": 1}, torch.zeros(2, 5), ["student's output must be a tensor of logits, got dict"]),
        (torch.zeros(2, 5), None, ["teacher's output must be a tensor of logits, got NoneType"]),
    ],
)
def test_outputs_that_cannot_be_compared_are_named(student: Any, teacher: Any, said: list[str]) -> None:
    with pytest.raises(StillhouseError) as error:
        Logits().losses(_step(student, teacher))
    for part in said:
        assert part in str(error.value)


# the closed form, beside torch's own way through the formula


def _formula(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    p, q = torch.softmax(teacher / t, 1), torch.softmax(student / t, 1)
    return (p * (p.log() - q.log())).sum(1).mean() * t * t


@quick
@given(rows=st.integers(1, 5), classes=st.integers(2, 6), t=st.floats(0.5, 20.0), seed=st.integers(0, 999))
def test_its_gradient_has_a_gradient(rows: int, classes: int, t: float, seed: int) -> None:
    torch.manual_seed(seed)
    student = torch.randn(rows, classes, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(rows, classes, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: soft_target_divergence(s, teacher, t), student)
    assert torch.autograd.gradgradcheck(lambda s: soft_target_divergence(s, teacher, t), student)
    direction = torch.randn_like(student)
    found = []
    for function in (soft_target_divergence, _formula):
        (first,) = torch.autograd.grad(function(student, teacher, t), student, create_graph=True)
        found.append(torch.autograd.grad((first * direction).sum(), student)[0])
    torch.testing.assert_close(*found)


def test_transforms_of_functions_go_through_the_formula() -> None:
    torch.manual_seed(0)
    students, teacher = torch.randn(3, 4, 5), torch.randn(4, 5)
    each = torch.func.vmap(torch.func.grad(soft_target_divergence), in_dims=(0, None))(students, teacher)
    for student, gradient in zip(students, each, strict=True):
        leaf = student.clone().requires_grad_()
        soft_target_divergence(leaf, teacher).backward()
        torch.testing.assert_close(gradient, leaf.grad)


def test_a_trained_teacher_has_its_gradient() -> None:
    torch.manual_seed(0)
    student, teacher = (torch.randn(4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = torch.autograd.grad(soft_target_divergence(student, teacher, 3.0), (student, teacher))
    wanted = torch.autograd.grad(_formula(student, teacher, 3.0), (student, teacher))
    for own, formula in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, formula)


@pytest.mark.parametrize("student_too", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_a_class_that_is_ruled_out_adds_nothing(student_too: bool, trained: bool) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    teacher[:, 2] = -torch.inf
    if student_too:
        student[:, 2] = -torch.inf
    leaf = student.clone().requires_grad_()
    loss = soft_target_divergence(leaf, teacher.requires_grad_(trained), 2.0)
    loss.backward()
    kept = [0, 1, 3, 4]
    q, p = torch.softmax(student.double() / 2, 1), torch.softmax(teacher.detach().double() / 2, 1)
    wanted = (p[:, kept] * (p[:, kept].log() - q[:, kept].log())).sum(1).mean() * 4
    torch.testing.assert_close(loss.detach().double(), wanted, rtol=1e-5, atol=1e-6)
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad.double(), 2 * (q - p) / 4, rtol=1e-5, atol=1e-6)


def test_what_is_not_finite_is_not_hidden() -> None:
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    teacher[0, 1] = -torch.inf
    ruled_out = student.clone()
    ruled_out[0, 0] = -torch.inf  # a class that the teacher holds for possible
    assert soft_target_divergence(ruled_out, teacher) == torch.inf
    for broken in (student, teacher):
        before, broken[0, 3] = broken[0, 3].clone(), torch.nan
        assert soft_target_divergence(student, teacher).isnan()
        broken[0, 3] = before


def test_a_compiler_gets_the_formula() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5)
    compiled = torch.compile(soft_target_divergence, backend="eager", fullgraph=True)
    own, eager = compiled(student, teacher), soft_target_divergence(student, teacher)
    torch.testing.assert_close(own, eager)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (own, eager)))
    torch._dynamo.reset()


def test_a_temperature_that_is_learned_has_its_gradient():
    student, teacher = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5)
    temperature = torch.tensor(2.0, requires_grad=True)
    found = soft_target_divergence(student, teacher, temperature)
    torch.testing.assert_close(found, soft_target_divergence(student, teacher, 2.0))
    (gradient,) = torch.autograd.grad(found, temperature)
    below, above = (soft_target_divergence(student.double(), teacher.double(), 2.0 + x) for x in (-1e-4, 1e-4))
    torch.testing.assert_close(gradient.double(), (above - below).detach() / 2e-4, rtol=1e-3, atol=1e-4)
