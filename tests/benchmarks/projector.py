"""What an orthogonal projection costs, and whether it stays orthogonal.

python tests/benchmarks/projector.py [--quick] [--write docs/benchmarks/projector.md]

Target 1: one step (forward, backward to student and projection, AdamW, retraction) of the retraction at 384 -> 768 and
256 rows takes at most 3.5 times the same step of a plain linear map. Target 2 (two minutes; ``--quick`` leaves it out): after
5,000 AdamW steps with weight decay 0.05 on the projection too, max |P^T P - I| is below 1e-5.
"""

from __future__ import annotations

import statistics
import sys

import torch
from _bench import interleaved, ratio, report

from stillhouse_experiments.figures.maps import ROWS, orthogonality_after, step_of

SIZES = [(128, 512), (384, 768), (768, 768), (768, 1024), (512, 2048)]
MAIN = (384, 768)
LIMIT, ERROR = 3.5, 1e-5


def row(size: tuple[int, int], name: str, seconds: dict[str, list[float]]) -> list[object]:
    """One line of the first table."""
    low, middle, high = ratio(seconds, name, "linear")
    judged = size == MAIN and name == "retraction"
    return [
        f"{size[0]} -> {size[1]}",
        name,
        f"{1e3 * statistics.median(seconds[name]):.2f}",
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
        f"at most {LIMIT}: {'met' if middle <= LIMIT else 'MISSED'}" if judged else "",
    ]


def main() -> None:
    """Measure, print, and with ``--write`` keep."""
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    for size in SIZES:
        torch.manual_seed(0)
        fast = {name: step_of(name, *size) for name in ("linear", "retraction")}
        seconds = interleaved(fast, repeats=15, calls=4)
        rows += [row(size, name, seconds) for name in fast]
        if size == MAIN:
            # Apart from the fast ones: a call of half a second leaves the caches to nobody else.
            slow = {name: step_of(name, *size) for name in ("linear", "cayley", "matrix_exp")}
            seconds = interleaved(slow, repeats=5)
            rows += [row(size, name, seconds) for name in ("cayley", "matrix_exp")]
    notes = [
        f"One step: forward, backward into student features and projection, AdamW, retraction; {ROWS} rows, float32; "
        "linear and orthogonal steps in turn in one process. Ratios are medians over the turns (smallest to largest)."
    ]
    if "--quick" not in sys.argv:
        notes += ["", *orthogonality_table()]
    report(
        "Projection: cost of staying orthogonal",
        ["student -> teacher", "map", "ms a step (median)", "times linear", "target"],
        rows,
        notes,
    )


def orthogonality_table() -> list[str]:
    """The second table, as lines: orthogonality after training. The maps are too slow here for 5,000 steps."""
    lines = [
        "AdamW with weight decay 0.05 on the projection as well, 384 -> 768, 64 rows a step:",
        "",
        "| map | lr | steps | max abs(P^T P - I) at the end | largest seen on the way | target |",
        "|---|---|---|---|---|---|",
    ]
    for name, lr, steps in [
        ("retraction", 1e-3, 1000),
        ("retraction", 1e-2, 5000),
        ("cayley", 1e-2, 200),
        ("matrix_exp", 1e-2, 25),
    ]:
        last, worst = orthogonality_after(name, lr, steps, MAIN)
        target = f"below {ERROR:g}: {'met' if worst < ERROR else 'MISSED'}" if name == "retraction" else ""
        lines.append(f"| {name} | {lr:g} | {steps:,} | {last:.1e} | {worst:.1e} | {target} |")
    return lines


if __name__ == "__main__":
    main()
