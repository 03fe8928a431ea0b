"""What it costs to keep the projection orthogonal, three ways beside a plain linear map: ``python docs/experiments/maps.py``.

The timing is that of ``tests/benchmarks/projector.py``, at the widths of the experiment ``vkd-maps`` and at wider ones; all maps
in turn in one process. The orthogonality errors are after as many AdamW steps with weight decay on the map itself, which a run leaves out.
"""

from __future__ import annotations

import statistics
import sys

import torch
from _page import HERE, into_pages, machine

sys.path.insert(0, str(HERE.parents[1] / "tests" / "benchmarks"))
import projector
from _bench import interleaved, ratio

MAPS = ("retraction", "cayley", "matrix_exp")
SIZES = ((64, 128), (128, 512))
STEPS, RATE = 200, 1e-2


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    lines = [
        f"Command: `python docs/experiments/maps.py`. Machine: {machine()}. A step of {projector.ROWS} rows: forward, backward into "
        "student and map, AdamW, retraction; medians, and of the ratios smallest to largest, over seven turns.",
        "",
        f"| student to teacher | map | ms a step | times linear | max abs(P^T P - I) after {STEPS} steps at {RATE:g} |",
        "|---|---|---|---|---|",
    ]
    for size in SIZES:
        torch.manual_seed(0)
        seconds = interleaved({name: projector.step_of(name, *size) for name in ("linear", *MAPS)}, calls=3)
        for name in ("linear", *MAPS):
            low, middle, high = ratio(seconds, name, "linear")
            kept = "-" if name == "linear" else f"{projector.orthogonality_after(name, RATE, STEPS, size)[0]:.1e}"
            lines.append(
                f"| {size[0]} to {size[1]} | {name} | {1e3 * statistics.median(seconds[name]):.2f} "
                f"| {middle:.2f} ({low:.2f} to {high:.2f}) | {kept} |"
            )
    into_pages("maps", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
