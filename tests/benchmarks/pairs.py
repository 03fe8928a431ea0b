"""Every pair of first-party plugins on the digits for two steps: which train, and why the others are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from _bench import report

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.pairs import PAIRS, outcome


def main() -> None:
    """Try all and report."""
    torch.set_num_threads(1)
    found = {pair: outcome(*pair) for pair in PAIRS}
    rows = [[f"`{first}`, `{second}`", reason] for (first, second), reason in found.items() if reason]
    names = sorted({name for pair in PAIRS for name in pair})
    report(
        "Every pair of plugins",
        ["pair", "refused because"],
        rows,
        [
            f"Of {len(PAIRS)} pairs of {len(names)} plugins, {len(PAIRS) - len(rows)} train: two steps, with finite terms of both. "
            "Each method has links of its own, and what it needs beside it.",
            "",
            "The plugins: " + ", ".join(f"`{name}`" for name in names) + ".",
        ],
    )


if __name__ == "__main__":
    main()
