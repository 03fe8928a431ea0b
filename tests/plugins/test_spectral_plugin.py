"""The plugin ``spectral``: its terms, rows, buffer and refusals."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from support import FakeComposition, assembly_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stillhouse import StillhouseError
from stillhouse.contract.step import Side, Step
from stillhouse_spectral import Spectral, WarmBases, tail_residual

torch.set_num_threads(1)

Array = np.ndarray[Any, np.dtype[np.float64]]


class _NoSync(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails where a tensor's value is copied to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func), "a value was copied to the host"
        return func(*args, **(kwargs or {}))


def _reference(z: Tensor, rank: int) -> tuple[float, Array]:
    """SciPy's SVD in float64: the mean of the squared tail, and its textbook gradient 2 U S V^T past ``rank``."""
    array: Array = z.detach().double().numpy()
    u, s, vh = scipy.linalg.svd(array, full_matrices=False)
    return float((s[rank:] ** 2).sum() / array.size), 2.0 * (u[:, rank:] * s[rank:]) @ vh[rank:] / array.size


def _step(features: dict[str, Tensor], module: nn.Module | None = None) -> Step:
    composition: Any = FakeComposition(module=module, taps=list(features))
    return Step(
        batch=None, ids=torch.arange(2), inputs=None, targets=None, iteration=0, epoch=0, composition=composition,
        student=Side(features=features),
    )  # fmt: skip


def _spectral(**options: Any) -> Spectral:
    made: Any = {"layer": "a", "rank": 2, "name": "spectral"} | options
    return Spectral(**made)


def test_terms_are_named_after_layers_and_the_share_is_logged() -> None:
    g = torch.Generator().manual_seed(0)
    features = {"a": torch.randn(16, 6, 3, 3, generator=g, requires_grad=True), "b": torch.randn(16, 8, generator=g)}
    plugin = _spectral(layer="*")
    assert [(t.model, t.layer) for t in plugin.add_taps(assembly_of(features=features))] == [
        ("student", "a"),
        ("student", "b"),
    ]
    step = _step(features)
    with _NoSync():  # type: ignore[no-untyped-call]
        terms = plugin.losses(step)
        torch.autograd.backward(terms["a"])
        assert plugin.scalars(step) == {}
        step.losses = {f"spectral/{k}": v for k, v in terms.items()}
        shares = plugin.scalars(step)
    expected, gradient = _reference(features["a"].mean((2, 3)), 2)
    assert float(terms["a"].detach()) == pytest.approx(expected, rel=1e-5)
    assert features["a"].grad is not None
    # Each of the 9 positions carries a ninth of its row's gradient.
    np.testing.assert_allclose(features["a"].grad.double().numpy()[:, :, 1, 2], gradient / 9, atol=1e-7)
    sigma = scipy.linalg.svdvals(features["b"].double().numpy())
    assert list(shares) == ["a/tail_fraction", "b/tail_fraction"]
    assert float(shares["b/tail_fraction"]) == pytest.approx(float((sigma[2:] ** 2).sum() / (sigma**2).sum()), rel=1e-5)


def test_one_layer_gives_the_only_term() -> None:
    features = {"a": torch.randn(8, 6, generator=torch.Generator().manual_seed(0))}
    plugin = _spectral()
    assert plugin.build(assembly_of(features=features)) is None
    step = _step(features)
    terms = plugin.losses(step)
    assert list(terms) == [""]
    step.losses = {"spectral": terms[""]}
    assert list(plugin.scalars(step)) == ["tail_fraction"]


def test_warm_moves_its_buffer_in_training_only_and_resumes_from_it() -> None:
    g = torch.Generator().manual_seed(0)
    batches = [torch.randn(32, 12, generator=g) for _ in range(6)]
    plugin = _spectral(rank=3, method="warm")
    torch.manual_seed(1)
    module = plugin.build(assembly_of(features={"a": batches[0][:2]}))
    assert isinstance(module, WarmBases)
    assert not list(module.parameters())
    start = module.basis("a").clone()
    module.eval()
    with _NoSync():  # type: ignore[no-untyped-call]
        plugin.losses(_step({"a": batches[0]}, module))
    assert torch.equal(module.basis("a"), start)
    module.train()

    def terms(m: nn.Module, some: list[Tensor]) -> list[Tensor]:
        return [plugin.losses(_step({"a": z}, m))[""] for z in some]

    whole = terms(copy.deepcopy(module), batches)
    first = terms(module, batches[:3])
    torch.manual_seed(2)
    resumed = WarmBases({"a": 12}, 3)
    resumed.load_state_dict(module.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(whole, first + terms(resumed, batches[3:]), strict=True))
    assert not torch.equal(module.basis("a"), start)


def test_warm_on_few_rows_is_zero_and_leaves_the_buffer() -> None:
    plugin = _spectral(rank=3, method="warm")
    module = plugin.build(assembly_of(features={"a": torch.zeros(2, 12)}))
    assert isinstance(module, WarmBases)
    start = module.basis("a").clone()
    assert float(plugin.losses(_step({"a": torch.ones(2, 12)}, module))[""]) == 0.0
    assert torch.equal(module.basis("a"), start)


def test_rank_zero_needs_no_basis() -> None:
    plugin = _spectral(rank=0, method="warm")
    z = torch.randn(4, 3)
    assert plugin.build(assembly_of(features={"a": z})) is None
    assert float(plugin.losses(_step({"a": z}))[""]) == pytest.approx(float((z**2).mean()), rel=1e-6)


def test_exact_residual_is_float64() -> None:
    assert tail_residual(torch.ones(4, 3), 1).dtype == torch.float64


def test_a_rank_without_effect_is_refused_with_all_layers() -> None:
    features = {"a": torch.zeros(2, 4, 5, 5), "b": torch.zeros(2, 9)}
    with pytest.raises(StillhouseError) as error:
        _spectral(layer="*", rank=8).build(assembly_of(features=features, batch_size=8))
    texts = [str(f) for f in error.value.faults]
    assert len(texts) == 2
    assert "below the 4 channels of the student's layer 'a', (2, 4, 5, 5)" in texts[0]
    assert "below the 8 rows at once of the student's layer 'b', (2, 9)" in texts[1]
    assert _spectral(rank=3, pool="none").build(assembly_of(features={"a": features["a"]}, batch_size=1)) is None


def test_bad_options_layers_and_devices_are_named() -> None:
    with pytest.raises(StillhouseError, match="rank: must be a whole number >= 0, got -1"):
        _spectral(rank=-1)
    with pytest.raises(StillhouseError, match=r"layer: .*no layer 'c'"):
        _spectral(layer="c").add_taps(assembly_of(features={"a": torch.zeros(2, 4)}))
    with pytest.raises(StillhouseError, match="method: must be 'warm' on MPS"):
        _spectral().build(assembly_of(features={"a": torch.zeros(2, 4)}, device="mps"))
    assert _spectral(method="warm").build(assembly_of(features={"a": torch.zeros(2, 4)}, device="mps")) is not None
