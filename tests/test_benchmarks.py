"""The benchmarks' scripts: each can be read and has its page, and what they set side by side computes the same."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.imports import ROOT

BENCHMARKS = ROOT / "tests" / "benchmarks"
NAMES = sorted(path.stem for path in BENCHMARKS.glob("[a-z]*.py"))
LOOPS = ["by hand", "by hand, fused and folded", "Stillhouse"]
"""Those that every case has and that need nothing but what the tests have."""


def run(code: str) -> str:
    """What a process of its own prints: the scripts' names are those of anybody's modules."""
    made = f"import sys, torch\ntorch.set_num_threads(1)\nsys.path.insert(0, {str(BENCHMARKS)!r})\n{code}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", made], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_each_script_can_be_imported_and_has_a_page_that_names_its_command():
    shown = run(
        f"import importlib\nfor name in {NAMES}:\n    print(name, callable(importlib.import_module(name).main))"
    )
    assert shown.splitlines() == [f"{name} True" for name in NAMES]
    index = (ROOT / "docs" / "benchmarks" / "index.md").read_text(encoding="utf-8")
    for name in NAMES:
        page = ROOT / "docs" / "benchmarks" / f"{name}.md"
        assert f"tests/benchmarks/{name}.py" in page.read_text(encoding="utf-8")
        assert f"{name}.md" in index


@pytest.mark.parametrize("case", ["tiny", "links", "orthogonal"])
def test_the_loops_of_the_page_of_peers_have_the_same_losses(case: str):
    # take_turns compares them, and raises.
    shown = run(
        f"import peers\npeers.TURNS = {{{case!r}: (1, 1)}}\n"
        f"loops = {{name: peers.LOOPS[name] for name in {LOOPS}}}\n"
        f"peers.choose_loops = lambda case: loops\nprint(*peers.measure({case!r}), sep=';')"
    )
    assert shown.strip().split(";") == LOOPS


def test_a_step_takes_no_more_memory_than_by_hand_and_the_engines_sides_run():
    shown = run(
        "import overhead, memory\nfor go in overhead.pair(overhead.tiny_recipe(), 'body', 'body', 2, 2).values():\n    go()\n"
        "print(overhead.cost_of_a_look() > 0)\nmemory.main()"
    )
    assert shown.startswith("True\n")
    (row,) = [line for line in shown.splitlines() if line.startswith("| Stillhouse")]
    assert float(row.split("| x")[1].split()[0]) <= 1.02
