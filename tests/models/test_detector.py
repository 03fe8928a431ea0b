"""Our own detector: its pyramid, and that all of it follows its width."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stillhouse.errors import StillhouseError
from stillhouse.models.nets import detector


def test_detector_pyramid() -> None:
    model = detector(3, 1, (32, 40), width=4, stages=4)
    maps = model.backbone(torch.randn(2, 1, 32, 40))
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "stage2": (2, 16, 8, 10),
        "stage3": (2, 16, 4, 5),
        "stage4": (2, 16, 2, 3),
    }
    images = [torch.rand(1, 32, 40)] * 2
    assert [tuple(i.shape[-2:]) for i in model.transform(images)[0].tensors] == [(32, 64)] * 2  # padded, not resized
    assert model.transform(images)[0].image_sizes == [(32, 40)] * 2
    with torch.no_grad():
        found = model.eval()(images)
    assert [sorted(f) for f in found] == [["boxes", "labels", "scores"]] * 2


def test_a_narrow_detector_is_small_as_a_whole() -> None:
    def count(model: nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    whole, quarter = detector(3), detector(3, width=4)
    assert whole.backbone.out_channels == 64
    for part in ("backbone", "head"):
        assert 8 * count(quarter.get_submodule(part)) < count(whole.get_submodule(part)), part
    images, costs = torch.rand(1, 3, 64, 64), []
    for model in (quarter, whole):
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            model.eval()(list(images))
        costs.append(counted.get_total_flops())
    assert 8 * costs[0] < costs[1]


@pytest.mark.parametrize(
    ("args", "where", "said"),
    [
        ({"stages": 1}, "stages", "must be >= 2, got 1"),
        ({"channels": 45}, "channels", "must be even, got 45"),
        ({"width": 0}, "width", "must be >= 1, got 0"),
    ],
)
def test_the_detector_refuses(args: dict[str, Any], where: str, said: str) -> None:
    with pytest.raises(StillhouseError) as caught:
        detector(3, **args)
    assert (caught.value.faults[0].where, caught.value.faults[0].what) == (where, said)
