"""Networks of convolutions and batch normalisations, for tests of what is folded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.assembly.folded_norms import FoldedNorms, fold_norms
from stillhouse.loop.tapped_model import TappedModel
from stillhouse.tasks import Classification

__all__ = ["Net", "folded_net", "images", "settle", "tap"]


def settle(model: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with statistics and factors as after a training."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.1, 4.0, generator=generator)
            if module.affine:
                nn.init.normal_(module.weight, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return model.eval().requires_grad_(False)


class Net(nn.Module):
    """Two convolutions with their normalisations, and what a test puts between; ``body`` is tapped as a rule."""

    def __init__(self, between: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.body = nn.Sequential(nn.Conv2d(6, 5, 3, stride=2), nn.BatchNorm2d(5), nn.ReLU())
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.bn1(x if self.between is None else self.between(x))
        return self.body(x).mean((2, 3))


def tap(model: nn.Module, *layers: str, **more: Any) -> TappedModel:
    return TappedModel(model, "teacher", Classification(), layers, frozen=True, **more)


def images(count: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 9, 9, generator=torch.Generator().manual_seed(seed))


def folded_net(*layers: str) -> tuple[Net, TappedModel, FoldedNorms]:
    net = settle(Net())
    assert isinstance(net, Net)
    tapped = tap(net, *layers)
    folded = fold_norms(tapped, images())
    assert folded is not None
    return net, tapped, folded
