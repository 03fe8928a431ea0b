"""The cost of a projection that stays orthogonal, three ways beside a plain linear map.

At the widths of the experiment ``vkd-maps`` and at wider ones, all maps in turn in one process. The orthogonality errors are
after AdamW steps with weight decay on the map itself, which a run leaves out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from stillhouse_experiments.figures.figure import Figure, Request
from stillhouse_experiments.machine import machine
from stillhouse_experiments.timing import interleaved, ratio
from stillhouse_projector import Projectors, draw_haar, make_map, measure_orthogonality_error
from stillhouse_projector.maps import OrthogonalMap

__all__ = ["make", "make_projection", "orthogonality_after", "step_of"]

ROWS = 256
Map = OrthogonalMap | Literal["linear"]
MAPS: tuple[Map, ...] = ("linear", "retraction", "cayley", "matrix_exp")
SIZES = ((64, 128), (128, 512))
STEPS, RATE = 200, 1e-2


def make_projection(name: Map, d_s: int, d_t: int) -> Projectors:
    """``linear``, or the orthogonal map of that name, from ``d_s`` to ``d_t`` channels."""
    made = make_map("linear", d_s, d_t) if name == "linear" else make_map("orthogonal", d_s, d_t, orthogonal_map=name)
    return Projectors({"a": made}, {"a": d_s})


def step_of(name: Map, d_s: int, d_t: int) -> Callable[[], None]:
    """One training step as a run does it, student features with gradient."""
    project = make_projection(name, d_s, d_t)
    optimizer = torch.optim.AdamW(project.parameters(), lr=1e-3, weight_decay=0.0)
    student, teacher = torch.randn(ROWS, d_s, requires_grad=True), torch.randn(ROWS, d_t)

    def step() -> None:
        optimizer.zero_grad()
        student.grad = None
        (project("a", student) - teacher).square().mean().backward()
        optimizer.step()
        project.retract()

    return step


def orthogonality_after(
    name: OrthogonalMap, lr: float, steps: int, size: tuple[int, int], rows: int = 64
) -> tuple[float, float]:
    """max |P^T P - I| after training with weight decay 0.05 on the projection, and the largest on the way."""
    torch.manual_seed(0)
    d_s, d_t = size
    project = make_projection(name, d_s, d_t)
    target = draw_haar(d_t, d_s)
    optimizer = torch.optim.AdamW(project.parameters(), lr=lr, weight_decay=0.05)
    worst = torch.zeros((), dtype=torch.float64)
    for i in range(steps):
        z = torch.randn(rows, d_s)
        wanted = z @ target.mT + 0.3 * torch.randn(rows, d_t)
        optimizer.zero_grad()
        (project("a", z) - wanted).square().mean().backward()
        optimizer.step()
        project.retract()
        if i < 10 or i % 50 == 0:
            worst = torch.maximum(worst, _error(project))
    last = _error(project)
    return last.item(), torch.maximum(worst, last).item()


def _error(project: Projectors) -> Tensor:
    (projection,) = project.maps.values()
    with torch.no_grad():
        weight = projection.weight
        assert isinstance(weight, Tensor)
        return measure_orthogonality_error(weight)


def make(request: Request) -> Figure:
    """The table; of no experiment's runs."""
    torch.set_num_threads(1)
    lines = [
        f"Command: `stillhouse experiment --figure maps`. Machine: {machine()}. A step of {ROWS} rows: forward, backward into "
        "student and map, AdamW, retraction; medians, and of the ratios smallest to largest, over seven turns.",
        "",
        f"| student to teacher | map | ms a step | times linear | max abs(P^T P - I) after {STEPS} steps at {RATE:g} |",
        "|---|---|---|---|---|",
    ]
    for size in SIZES:
        torch.manual_seed(0)
        seconds = interleaved({name: step_of(name, *size) for name in MAPS}, calls=3)
        for name in MAPS:
            low, middle, high = ratio(seconds, name, "linear")
            kept = "-" if name == "linear" else f"{orthogonality_after(name, RATE, STEPS, size)[0]:.1e}"
            lines.append(
                f"| {size[0]} to {size[1]} | {name} | {1e3 * statistics.median(seconds[name]):.2f} "
                f"| {middle:.2f} ({low:.2f} to {high:.2f}) | {kept} |"
            )
    return Figure("maps", lines)
