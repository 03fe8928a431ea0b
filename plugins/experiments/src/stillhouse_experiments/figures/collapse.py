"""The collapse of a projection that is kept orthogonal by Householder reflections, beside this project's.

python docs/experiments/collapse.py

A student's features are pulled towards fixed targets through a projection, all of it trained by one AdamW with its default weight decay of
0.01, as VkD's released ImageNet code does. Three projections: torch's ``parametrizations.orthogonal`` without
``orthogonal_map``, which takes Householder reflections for a matrix that is not square; the same without weight decay on it;
and :class:`stillhouse_projector.Projectors`, with weight decay on it, which is more than a run asks of it. Writes
``results/collapse.png`` and the table of the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import torch
from _page import HERE, into_pages, machine
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from stillhouse_projector import Projectors, make_map, orthogonality_error

mpl.use("agg")
SIZE, ROWS, STEPS, LEARNING_RATE, DECAY = (192, 384), 256, 200, 1e-3, 0.01
ARMS = {
    "torch's default, weight decay": ("householder", DECAY),
    "torch's default, no weight decay": ("householder", 0.0),
    "retraction, weight decay": ("retraction", DECAY),
}


class Householder(nn.Module):
    """What one gets by ``parametrizations.orthogonal(nn.Linear(d_s, d_t, bias=False))``."""

    def __init__(self, d_s: int, d_t: int) -> None:
        super().__init__()
        self.map = parametrizations.orthogonal(nn.Linear(d_s, d_t, bias=False))

    def forward(self, rows: Tensor) -> Tensor:
        """(R, d_s) -> (R, d_t)."""
        projected: Tensor = self.map(rows)
        return projected


def train(kind: str, decay: float, seed: int = 0) -> Iterator[tuple[float, float, float]]:
    """After each step: max |P^T P - I|, the loss, and the norm of its gradient for the student."""
    torch.manual_seed(seed)
    d_s, d_t = SIZE
    student = nn.Linear(d_s, d_s)
    module = (
        Householder(d_s, d_t)
        if kind == "householder"
        else Projectors({"a": make_map("orthogonal", d_s, d_t)}, {"a": d_s})
    )
    rows, targets = torch.randn(ROWS, d_s), torch.randn(ROWS, d_t)
    optimizer = torch.optim.AdamW(
        [{"params": student.parameters()}, {"params": module.parameters(), "weight_decay": decay}], lr=LEARNING_RATE
    )
    for _ in range(STEPS):
        features = student(rows)
        projected = module(features) if isinstance(module, Householder) else module("a", features)
        loss = (projected - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert student.weight.grad is not None
        gradient = student.weight.grad.norm().item()
        optimizer.step()
        if isinstance(module, Projectors):
            module.retract()
        with torch.no_grad():
            weight = module.map.weight if isinstance(module, Householder) else next(iter(module.maps.values())).weight
            error = orthogonality_error(weight).item()
        yield error, loss.item(), gradient


def draw(found: dict[str, list[tuple[float, float, float]]], path: Path) -> None:
    """Error and gradient by step."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for style, (name, values) in zip(("-", "--", "-"), found.items(), strict=True):
        steps = range(1, len(values) + 1)
        left.plot(steps, [max(error, 1e-9) for error, _, _ in values], style, label=name)
        right.plot(steps, [gradient for _, _, gradient in values], style, label=name)
    left.set(yscale="log", xlabel="step", ylabel="max |PᵀP - I|")
    right.set(xlabel="step", ylabel="gradient norm of the student")
    right.set_ylim(bottom=-0.002)
    left.legend(fontsize="small")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Train, draw, and write the table."""
    torch.set_num_threads(1)
    found = {name: list(train(*arm)) for name, arm in ARMS.items()}
    (HERE / "results").mkdir(exist_ok=True)
    draw(found, HERE / "results" / "collapse.png")
    lines = [
        f"Command: `python docs/experiments/collapse.py`. Seed 0, {SIZE[0]} -> {SIZE[1]} channels, {ROWS} rows, AdamW at {LEARNING_RATE:g}. "
        f"Machine: {machine()}.",
        "",
        "| projection | max abs(P^T P - I) after step 1 | at the end | the student's gradient in step 1 | in step 2 | at the end | loss at the end |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in found.items():
        (first, _, gradient), (_, _, second), (last, loss, end) = values[0], values[1], values[-1]
        lines.append(f"| {name} | {first:.1e} | {last:.1e} | {gradient:.4f} | {second:.4f} | {end:.4f} | {loss:.4f} |")
    into_pages(
        "collapse", "\n".join([*lines, "", "![The error and the student's gradient by step](results/collapse.png)"])
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
