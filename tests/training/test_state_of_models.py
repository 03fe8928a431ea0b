"""Models whose state takes its shape from the first batch: they train, go on, are measured and loaded as any other."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import CLASSES, TESTS, interrupted, recipe, same_state
from torch import Tensor, nn

from stillhouse import Recipe, StillhouseError, evaluate, load_student, prepare, train
from stillhouse.models.lazy import materialise
from stillhouse.models.weights import load_state
from stillhouse.training.checks import check_scaling


class LazyNet(nn.Module):
    """Every layer takes its shape from its first input."""

    def __init__(self, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten())
        self.head = nn.LazyLinear(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 6, 6) -> (B, num_classes)."""
        return self.head(self.body(x))


def quantised(num_classes: int = CLASSES) -> nn.Module:
    """A network with torch's observers of ranges: the first batch resizes their buffers, and they go on in eval mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the successor of its module
        from torch.ao import quantization

        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, num_classes)).train()
        net.qconfig = quantization.get_default_qat_qconfig("fbgemm")
        return quantization.prepare_qat(net)


def settings(model: str, **changes: Any) -> Recipe:
    """Three epochs of ``model``."""
    run = {"name": "tiny", "epochs": 3, "seed": 3, "device": "cpu", "base": str(TESTS)}
    return recipe(run=run, student={"model": f"training.test_state_of_models:{model}"}, teacher=None, **changes)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization:DeprecationWarning")
@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("model", ["LazyNet", "quantised"])
def test_it_goes_on_and_is_measured_and_loaded(tmp_path, model: str, averaged: bool):
    made = settings(model, **({"ema": {"decay": 0.5}} if averaged else {}))
    whole = train(made, out=tmp_path / "whole")
    interrupted(prepare(made, out=tmp_path / "cut"), at=5)
    resumed = train(made, out=tmp_path / "cut", resume=True)
    assert resumed.summary["resumed_at_step"] == 3
    assert same_state(whole.student.state_dict(), resumed.student.state_dict())
    found = evaluate(tmp_path / "whole", weights="last").metrics["test"]
    assert found == pytest.approx(whole.metrics["test"])
    assert same_state(whole.student.state_dict(), load_student(tmp_path / "whole", weights="last").state_dict())


def test_lazy_models_from_python_and_as_teachers_are_given_their_shapes(tmp_path):
    logits = {"use": "logits"}
    one, two = (
        train(recipe(logits), student=LazyNet(), teacher=LazyNet(), out=tmp_path / name) for name in ("one", "two")
    )
    assert same_state(one.student.state_dict(), two.student.state_dict())  # their start follows from the run's seed
    loaded = load_student(tmp_path / "one", student=LazyNet())
    x = torch.randn(2, 1, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), one.student(x))


def test_a_lazy_model_that_cannot_take_the_inputs_is_told():
    with pytest.raises(
        StillhouseError, match=r"^student: its lazy layers get their shapes from a first batch, and it "
    ):
        materialise(LazyNet(), lambda: torch.zeros(2, 6), 0, "student")


def test_generators_and_modes_are_as_before():
    model, before = LazyNet(), torch.get_rng_state()
    model.body.eval()
    materialise(model, lambda: torch.zeros(2, 1, 6, 6), 0, "student")
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not model.body.training
    assert not model.body[1].running_mean.any()


def test_a_file_of_another_shape_is_still_refused_and_nothing_is_loaded():
    class Own(nn.Module):
        """Loads in a way of its own, as observers do."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))
            self.register_buffer("range", torch.zeros(width))

        def _load_from_state_dict(self, *arguments: Any) -> None:
            super()._load_from_state_dict(*arguments)

    state = {"weight": torch.ones(3), "range": torch.ones(4)}
    with pytest.raises(StillhouseError, match=r"file: does not fit the model: Error.* size mismatch for range"):
        load_state(Own(2), state, "file")
    with pytest.raises(StillhouseError, match=r"other shapes: weight: \(3,\) in the file, \(2,\) here"):
        load_state(nn.BatchNorm1d(2), {**nn.BatchNorm1d(2).state_dict(), "weight": torch.ones(3)}, "file")
    model = nn.Linear(2, 2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    broken = {**before, "bias": torch.tensor([0.0, torch.nan]), "weight": torch.zeros(2, 2)}
    with pytest.raises(
        StillhouseError, match=r"^file: holds NaN in bias .it is damaged, or of a training that diverged"
    ):
        load_state(model, broken, "file")
    assert same_state(before, model.state_dict())


@pytest.mark.parametrize(
    ("precision", "shard", "trained", "refused"),
    [
        ("float16", "student", True, True),
        ("float16", "both", True, True),
        ("float16", "student", False, False),
        ("float16", "teacher", True, False),
        ("bfloat16", "student", True, False),
    ],
)
def test_float16_with_a_spread_student_and_a_trained_module_is_refused(
    precision: str, shard: str, trained: bool, refused: bool
):
    facts: Any = SimpleNamespace(recipe=recipe(distributed={"shard": shard}, run__precision=precision))
    modules = {"projector": nn.Linear(2, 2).requires_grad_(trained), "logits": nn.Module()}
    if not refused:
        check_scaling(facts, modules)
        return
    with pytest.raises(StillhouseError, match=r"run.precision: float16 .* the modules of 'projector', which are not"):
        check_scaling(facts, modules)
