"""The collapse of a projection that is kept orthogonal by Householder reflections, beside this project's.

A student's features are pulled towards fixed targets through a projection, all of it trained by one AdamW with its default weight decay of
0.01, as VkD's released ImageNet code does. Three projections: torch's ``parametrizations.orthogonal`` without
``orthogonal_map``, which takes Householder reflections for a matrix that is not square; the same without weight decay on it;
and :class:`stillhouse_projector.Projectors`, with weight decay on it, which is more than a run asks of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from stillhouse_experiments.drawing import panels, save
from stillhouse_experiments.figures.figure import Figure, Request
from stillhouse_experiments.machine import machine
from stillhouse_projector import Projectors, make_map, measure_orthogonality_error

__all__ = ["Householder", "make", "train"]

SIZE, ROWS, STEPS, LEARNING_RATE, DECAY = (192, 384), 256, 200, 1e-3, 0.01
ARMS = {
    "torch's default, weight decay": ("householder", DECAY),
    "torch's default, no weight decay": ("householder", 0.0),
    "retraction, weight decay": ("retraction", DECAY),
}


class Householder(nn.Module):
    """The projection of ``parametrizations.orthogonal(nn.Linear(d_s, d_t, bias=False))``."""

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
    groups: list[dict[str, Any]] = [
        {"params": student.parameters()},
        {"params": module.parameters(), "weight_decay": decay},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)
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
            error = measure_orthogonality_error(_weight(module)).item()
        yield error, loss.item(), gradient


def _weight(module: Householder | Projectors) -> Tensor:
    (projection,) = [module.map] if isinstance(module, Householder) else module.maps.values()
    weight = projection.weight
    assert isinstance(weight, Tensor)
    return weight


def draw(found: dict[str, list[tuple[float, float, float]]], path: Path) -> None:
    """Error and gradient by step."""
    figure, (left, right) = panels(2, 9, 3.2)
    for style, (name, values) in zip(("-", "--", "-"), found.items(), strict=True):
        steps = range(1, len(values) + 1)
        left.plot(steps, [max(error, 1e-9) for error, _, _ in values], style, label=name)
        right.plot(steps, [gradient for _, _, gradient in values], style, label=name)
    left.set(yscale="log", xlabel="step", ylabel="max |PᵀP - I|")
    right.set(xlabel="step", ylabel="gradient norm of the student")
    right.set_ylim(bottom=-0.002)
    left.legend(fontsize="small")
    save(figure, path)


def make(request: Request) -> Figure:
    """The table and the picture; of no experiment's runs."""
    torch.set_num_threads(1)
    found = {name: list(train(*arm)) for name, arm in ARMS.items()}
    draw(found, request.home.results / "collapse.png")
    lines = [
        f"Command: `stillhouse experiment --figure collapse`. Seed 0, {SIZE[0]} -> {SIZE[1]} channels, {ROWS} rows, AdamW at "
        f"{LEARNING_RATE:g}. Machine: {machine()}.",
        "",
        "| projection | max abs(P^T P - I) after step 1 | at the end | the student's gradient in step 1 | in step 2 | at the end | loss at the end |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in found.items():
        (first, _, gradient), (_, _, second), (last, loss, end) = values[0], values[1], values[-1]
        lines.append(f"| {name} | {first:.1e} | {last:.1e} | {gradient:.4f} | {second:.4f} | {end:.4f} | {loss:.4f} |")
    return Figure("collapse", [*lines, "", "![The error and the student's gradient by step](results/collapse.png)"])
