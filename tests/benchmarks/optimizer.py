"""The optimizer's step on a CPU: torch's fused kernel, which Stillhouse chooses there, with torch's own choice, a loop.

python tests/benchmarks/optimizer.py [--write docs/benchmarks/optimizer.md]

Target: at most half of the time, and after one step at most 1.5 times as far from float64 as the loop is.
"""

from __future__ import annotations

import copy
import statistics
from typing import Any

import torch
import torchvision
from _bench import interleaved, ratio, report
from torch import Tensor, nn

from stillhouse.models import convnet

MODELS = {
    "small convnet": lambda: convnet(10, width=32),
    "ResNet-18": lambda: torchvision.models.resnet18(num_classes=10),
}
OPTIMIZERS: dict[str, tuple[Any, dict[str, float]]] = {
    "sgd, momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}),
    "adamw": (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.05}),
}
TURNS = 30


def make(model: nn.Module, name: str, gradients: list[Tensor], *, fused: bool) -> tuple[list[nn.Parameter], Any]:
    """A copy of the model's parameters with ``gradients``, and what steps them."""
    parameters = list(copy.deepcopy(model).parameters())
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.to(parameter.dtype)
    cls, options = OPTIMIZERS[name]
    return parameters, cls(parameters, **options, fused=fused)


def find_error(found: list[nn.Parameter], exact: list[nn.Parameter]) -> float:
    """The largest difference of two lists of parameters."""
    return max(float((p.detach() - q.detach()).abs().max()) for p, q in zip(found, exact, strict=True))


def compare(model: nn.Module, name: str) -> list[object]:
    """A row of the page."""
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(p.shape, generator=generator) * 1e-2 for p in model.parameters()]
    exact, exact_optimizer = make(copy.deepcopy(model).double(), name, gradients, fused=False)
    loop, fused = (make(model, name, gradients, fused=fused) for fused in (False, True))
    for optimizer in (exact_optimizer, loop[1], fused[1]):
        optimizer.step()
    errors = [find_error(parameters, exact) for parameters, _ in (loop, fused)]
    seconds = interleaved({"loop": loop[1].step, "fused": fused[1].step}, repeats=TURNS, calls=10)
    times = {side: statistics.median(values) for side, values in seconds.items()}
    least, share, most = ratio(seconds, "fused", "loop")
    return [
        len(exact),
        f"{times['loop'] * 1e6:.0f} us",
        f"{times['fused'] * 1e6:.0f} us",
        f"x{share:.2f} ({least:.2f} to {most:.2f})",
        f"{errors[0]:.1e}",
        f"{errors[1]:.1e}",
        f"at most x0.5: {'met' if share <= 0.5 else 'missed'}; error: {'met' if errors[1] <= 1.5 * errors[0] else 'missed'}",
    ]


def main() -> None:
    """Measure and report."""
    torch.set_num_threads(1)
    rows = [[name, what, *compare(build(), name)] for what, build in MODELS.items() for name in OPTIMIZERS]
    report(
        "The optimizer's step",
        [
            "optimizer",
            "model",
            "tensors",
            "torch's loop",
            "fused",
            "fused over the loop",
            "the loop's error",
            "the fused step's",
            "target",
        ],
        rows,
        [
            f"Medians of {TURNS} turns of 10 steps a side, least to greatest in brackets; an error is the largest difference from float64 after one step."
        ],
    )


if __name__ == "__main__":
    main()
