"""Fully connected layers: mlp."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from stillhouse.models.nets.checks import check_counts

__all__ = ["Mlp", "mlp"]


class Mlp(nn.Module):
    """Fully connected layers on the flattened input; see :func:`mlp`.

    Attributes:
        layers: ``layers.0``, ...: each linear and ReLU, -> (B, width).
        head: (B, width) -> logits (B, num_classes).
    """

    def __init__(self, num_classes: int, in_features: int, width: int, depth: int) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, in_features=in_features, width=width, depth=depth)
        sizes = [in_features] + [width] * depth
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) with in_features numbers a sample -> logits (B, num_classes)."""
        logits: Tensor = self.head(self.layers(x.flatten(1)))
        return logits


def mlp(num_classes: int, in_features: int, width: int = 128, depth: int = 2) -> Mlp:
    """A multilayer perceptron on flattened inputs.

    Args:
        num_classes: logits.
        in_features: numbers in one input: C * H * W for images.
        width: units of each hidden layer.
        depth: number of hidden layers.

    Raises:
        StillhouseError: a number below 1.
    """
    return Mlp(num_classes, in_features, width, depth)
