"""Gradient checkpointing: less is kept, and everything that is computed is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import FEATURES, recipe, same_state
from torch import Tensor, nn

from stillhouse import StillhouseError, prepare, train
from stillhouse.training.recomputation import checkpoint_gradients, keep_gradients, list_blocks


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.norm(self.conv(x)))


class Blocks(nn.Module):
    """As torchvision's residual networks are built."""

    def __init__(self, num_classes: int = 3, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 1)
        self.body = nn.Sequential(Block(width), Block(width), Block(width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize("plugins", [(), (FEATURES, {"use": "projector"})])
def test_a_run_that_recomputes_is_the_same_run(plugins: Any):
    teacher: dict[str, Any] = {} if plugins else {"teacher": None}
    plain, less = (
        recipe(*plugins, student={"model": f"{__name__}:Blocks"}, speed=speed, **teacher)
        for speed in ({}, {"checkpoint_gradients": True})
    )
    first, second = train(plain, write=False), train(less, write=False)
    assert same_state(first.student.state_dict(), second.student.state_dict())
    assert not any("forward" in vars(module) for module in second.student.modules())


def test_blocks_are_computed_again_on_the_way_back_and_statistics_move_once():
    model, calls = Blocks(), []
    model.body[1].conv.register_forward_hook(lambda *_: calls.append(1))
    assert checkpoint_gradients(model) == "torch around 3 blocks, body.0 to body.2"
    model(torch.randn(4, 1, 6, 6)).sum().backward()
    assert len(calls) == 2
    assert int(model.body[1].norm.num_batches_tracked) == 1
    with torch.no_grad():
        model(torch.randn(4, 1, 6, 6))
    keep_gradients(model)
    model(torch.randn(4, 1, 6, 6)).sum().backward()
    assert len(calls) == 4


def test_torchvisions_and_timms_models_have_blocks():
    from torchvision.models import resnet18, vit_b_16

    assert list(list_blocks(resnet18()))[:3] == ["layer1.0", "layer1.1", "layer2.0"]
    with torch.device("meta"):
        assert len(list_blocks(vit_b_16())) == 12
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", depth=2)
    assert checkpoint_gradients(model) == "VisionTransformer.set_grad_checkpointing"
    assert model.grad_checkpointing


def test_a_model_without_blocks_says_so():
    with pytest.raises(StillhouseError, match=r"speed.checkpoint_gradients: .*TinyNet has no blocks in a row"):
        prepare(recipe(teacher=None, speed={"checkpoint_gradients": True}), write=False)
