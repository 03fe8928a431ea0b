"""Before the first step: two samples of each split are measured and forgotten; a plugin's metrics may read tapped layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.metrics import Average, Metric
from support import CLASSES, TESTS, TinyNet, recipe, same_state, tiny_data
from torch import Tensor
from torch.utils.data import TensorDataset

from stillhouse import Plugin, StillhouseError, Tap, hookimpl, plugin, prepare, train


def _make(odd: str) -> dict[str, TensorDataset]:
    made = tiny_data()
    images = torch.full((6, 1, 6, 6), 100.0)
    return {**made, odd: TensorDataset(images, torch.arange(6) % CLASSES)}


def odd_val() -> dict[str, TensorDataset]:
    """The validation images are such as :class:`Picky` cannot take."""
    return _make("val")


def odd_test() -> dict[str, TensorDataset]:
    """The test images are."""
    return _make("test")


class Picky(TinyNet):
    """Refuses large values."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 6, 6) -> (B, num_classes)."""
        if x.max() > 50:
            raise ValueError("values above 50")
        return super().forward(x)


def settings(data: str, **run: Any) -> Any:
    """A recipe of ``data`` and :class:`Picky`."""
    run = {"name": "tiny", "epochs": 1, "seed": 3, "device": "cpu", "base": str(TESTS), **run}
    data = {"name": f"training.test_first_measurement:{data}", "batch_size": 8, "normalize": "none"}
    return recipe(run=run, data=data, student={"model": "training.test_first_measurement:Picky"}, teacher=None)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_that_the_student_cannot_take_is_told_before_training(split: str):
    says = rf"^split '{split}': student: the student cannot take inputs of shape \(2, 1, 6, 6\) in eval mode: values above 50"
    with pytest.raises(StillhouseError, match=says):
        prepare(settings(f"odd_{split}"), write=False)


def test_a_split_that_is_not_measured_is_not_looked_at():
    prepare(settings("odd_test", test=False), write=False)


@plugin
class Spread(Plugin):
    """Measures how far the features of a layer spread."""

    @hookimpl
    def add_taps(self, assembly):
        return [Tap("student", "body")]

    @hookimpl
    def metrics(self, assembly):
        return {"spread": Average(lambda out: out["features"]["body"].float().std())}


def test_a_plugins_metrics_may_read_tapped_features_in_evaluation():
    training = prepare(recipe(), plugins=[Spread()], write=False)
    found = training.fit().metrics["test"]
    images = torch.stack([x for x, _ in tiny_data()["test"]])
    features: list[Tensor] = []
    training.run.student.body.register_forward_hook(lambda _module, _inputs, output: features.append(output))
    with torch.no_grad():
        for batch in images.split(8):
            training.run.student(batch)
    spreads = [float(x.std()) for x in features]
    assert found["spread"] == pytest.approx(sum(spreads) / len(spreads), rel=1e-5)


class Raising(Metric):
    """Fails at its first batch."""

    def __init__(self) -> None:
        super().__init__(output_transform=lambda out: (out["output"], out["target"]))

    def reset(self) -> None:
        """Nothing is kept."""

    def update(self, output: Any) -> None:
        """Fails."""
        raise ZeroDivisionError

    def compute(self) -> float:
        """Never."""
        return 0.0


def test_a_metric_that_fails_does_so_before_training():
    @plugin
    class Fails(Plugin):
        @hookimpl
        def metrics(self, assembly):
            return {"broken": Raising()}

    with pytest.raises(ZeroDivisionError) as caught:
        prepare(recipe(), plugins=[Fails()], write=False)
    assert caught.value.__notes__ == ["before training, when the metrics were given two samples of the split 'val'"]


def test_the_first_measurement_leaves_no_trace():
    class Observing(TinyNet):
        """Moves a buffer in eval mode too, as observers of ranges do."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("largest", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.largest.copy_(torch.maximum(self.largest, x.max()))
            return super().forward(x)

    student = Observing()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    training = prepare(recipe(), student=student, plugins=[], write=False)
    assert same_state(before, student.state_dict())
    assert training.run.evaluator.state.output is None
    whole = train(recipe(), plugins=[], write=False).metrics
    assert whole == train(recipe(), plugins=[], write=False).metrics
