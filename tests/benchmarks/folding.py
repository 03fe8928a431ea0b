"""A teacher's answer on a CPU with its batch normalisations folded into the convolutions before them, as Stillhouse calls it, and without.

python tests/benchmarks/folding.py [--write docs/benchmarks/folding.md]

Target: never slower, and an answer within 1e-5 of its greatest value. How much is gained depends on what the convolutions take.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable

import torch
import torchvision
from _bench import interleaved, ratio, report
from torch import nn

from stillhouse.assembly.folded_norms import fold_norms
from stillhouse.loop.tapped_model import TappedModel
from stillhouse.models import convnet
from stillhouse.tasks import Classification
from stillhouse_experiments.timing import steady_allocator

MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "convnet, width 8": (lambda: convnet(10, in_channels=3, width=8), 16),
    "convnet, width 64": (lambda: convnet(10, in_channels=3, width=64), 32),
    "ResNet-18": (lambda: torchvision.models.resnet18(num_classes=10), 64),
    "ResNet-50": (lambda: torchvision.models.resnet50(num_classes=10), 64),
    "MobileNetV2": (lambda: torchvision.models.mobilenet_v2(num_classes=10), 64),
    "EfficientNet-B0": (lambda: torchvision.models.efficientnet_b0(num_classes=10), 64),
}
BATCH, TURNS = 32, 15


def compare(name: str) -> list[object]:
    """A row of the page."""
    torch.manual_seed(0)
    build, size = MODELS[name]
    model, x = build().train(), torch.randn(BATCH, 3, size, size)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(BATCH, 3, size, size))  # statistics that are not those of the start
    plain, own = (
        TappedModel(copy.deepcopy(model).eval().requires_grad_(False), "teacher", Classification(), frozen=True)
        for _ in range(2)
    )
    folded = fold_norms(own, x[:2])
    assert folded is not None, name
    wanted = plain(x).output
    error = float((own(x).output - wanted).abs().max() / wanted.abs().max())
    calls = 50 if name == "convnet, width 8" else 2
    seconds = interleaved({"plain": lambda: plain(x), "folded": lambda: own(x)}, repeats=TURNS, calls=calls)
    times = {side: statistics.median(values) for side, values in seconds.items()}
    least, share, most = ratio(seconds, "folded", "plain")
    return [
        f"{name}, {size} x {size}",
        folded.count,
        f"{times['plain'] * 1e3:.2f} ms",
        f"{times['folded'] * 1e3:.2f} ms",
        f"x{share:.3f} ({least:.3f} to {most:.3f})",
        f"{error:.1e}",
        f"at most x1: {'met' if share <= 1.0 else 'missed'}; at most 1e-5: {'met' if error <= 1e-5 else 'missed'}",
    ]


def main() -> None:
    """Measure and report."""
    torch.set_num_threads(1)
    steady_allocator()
    report(
        "A teacher's folded normalisations",
        ["teacher", "folded", "plain", "folded", "folded over plain", "largest difference", "target"],
        [compare(name) for name in MODELS],
        [
            f"Answers to batches of {BATCH}, medians of {TURNS} turns, least to greatest in brackets; a difference is that of the logits, over the greatest of them."
        ],
    )


if __name__ == "__main__":
    main()
