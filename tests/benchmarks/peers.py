"""A training step in Stillhouse, in its peers and in a loop by hand: the same models, batch, method and losses.

The method is a linear projection of the student's last features to the teacher's, standardised (VkD's in its plainest
form), beside Hinton's distillation. The loop by hand is plain torch as a practitioner writes it: forward hooks,
``nn.Linear``, ``F.layer_norm``, ``F.mse_loss``, ``F.kl_div``. A peer that is not installed has no row; all are with
``make bench``, but Composer, which declares an older torch and runs with this one: an environment of its own, in which torch is
brought up to date after it, ``pip install --group composer && pip install --upgrade torch torchvision``.

Target: Stillhouse at most 1.05 times the loop by hand on the tiny step and within 1% on a small convnet, with 200 links
at most 1.05 times, with an orthogonal projection at most the retraction's arithmetic more; ahead of torchdistill.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Collection
from functools import partial
from importlib import import_module
from importlib.metadata import requires, version

import torch
from _bench import report
from _peer_cases import STILLHOUSE, Case, Made, make_case
from _peer_loops import LOOPS
from _turns import Side, take_turns

PROCESSES = 3
CASES = {
    "tiny": Case(student=4, teacher=8, size=16, batch=32),
    "cnn": Case(student=32, teacher=64, size=32, batch=32),
    "links": Case(student=4, teacher=8, size=16, batch=32, links=200),
    "orthogonal": Case(student=4, teacher=8, size=16, batch=32, projection="orthogonal"),
}
TURNS = {"tiny": (20, 50), "cnn": (30, 4), "links": (20, 4), "orthogonal": (20, 50)}
PACKAGES = {"torchdistill": "torchdistill", "Lightning": "lightning", "Composer": "composer"}
DISTRIBUTIONS = {"Composer": "mosaicml"}


def find_missing() -> dict[str, str]:
    """The peers that cannot be imported, with the reason.

    Imports those that can: two threads that import one package would get in each other's way.
    """
    missing = {}
    for peer, package in PACKAGES.items():
        try:
            import_module(package)
        except Exception as error:  # noqa: BLE001 - whatever another package's import raises with this torch
            missing[peer] = f"{type(error).__name__}: {error}".partition(" (/")[0]
    return missing


def note_pins(peers: Collection[str]) -> list[str]:
    """What of ``peers`` declares another torch than the one that it has been measured with."""
    pins = {
        peer: [r for r in requires(DISTRIBUTIONS.get(peer, peer)) or () if r.startswith("torch<")] for peer in peers
    }
    return [
        f"{peer} declares {', '.join(pin)}; here it ran with {version('torch')}, brought up to date after it."
        for peer, pin in pins.items()
        if pin
    ]


def choose_loops(case: str) -> dict[str, Callable[[Side, Made], None]]:
    """The loops of what is installed, the one by hand first; two cases are for Stillhouse alone."""
    if case in ("links", "orthogonal"):
        return {name: LOOPS[name] for name in ("by hand", "by hand, fused", "by hand, fused and folded", STILLHOUSE)}
    missing = tuple(find_missing())
    return {name: loop for name, loop in LOOPS.items() if not name.startswith(missing or "-")}


def measure(name: str) -> dict[str, tuple[float, float]]:
    """In this process: by system the median of a step's milliseconds, and of its ratio to the loop by hand's."""
    case, loops = make_case(CASES[name]), choose_loops(name)
    case.sides = len(loops)
    sides = [Side(system, partial(loop, made=case), case.batch_for(system)) for system, loop in loops.items()]
    seconds = take_turns(sides, *TURNS[name])
    by_hand = seconds["by hand"]
    return {
        system: (
            statistics.median(own) * 1e3,
            statistics.median(a / b for a, b in zip(own, by_hand, strict=True)),
        )
        for system, own in seconds.items()
    }


def collect(name: str) -> dict[str, list[tuple[float, float]]]:
    """:func:`measure` in fresh processes: where things lie in memory moves a step's time by more than an engine does."""
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(PROCESSES):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, "--once", name], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        for system, pair in json.loads(done.stdout.splitlines()[-1]).items():
            found.setdefault(system, []).append(tuple(pair))
    return found


def main() -> None:
    """Measure all cases and write the page."""
    found = {name: collect(name) for name in CASES}
    rows = []
    for system in found["tiny"]:
        cells = []
        for name in CASES:
            pairs = found[name].get(system)
            if pairs is None:
                cells.append("-")
                continue
            ratios = sorted(ratio for _, ratio in pairs)
            cells.append(f"x{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")
        rows.append([system, *cells])
    hand = {name: statistics.median(ms for ms, _ in found[name]["by hand"]) for name in CASES}
    missing = find_missing()
    present = [peer for peer in PACKAGES if peer not in missing]
    versions = [f"{peer} {version(DISTRIBUTIONS.get(peer, peer))}" for peer in present]
    report(
        "A step beside the peers",
        [
            "processor time over a loop by hand's",
            f"tiny step, {hand['tiny']:.1f} ms",
            f"small convnet, {hand['cnn']:.0f} ms",
            f"200 links, {hand['links']:.0f} ms",
            f"tiny step, orthogonal, {hand['orthogonal']:.1f} ms",
        ],
        rows,
        [
            "An orthogonal projection by hand is put back by torch.linalg.qr after each step: the ratio is what Stillhouse takes beside the same retraction.",
            "Stillhouse asks torch for the optimizer's fused kernel on a CPU, and folds the frozen teacher's batch normalisations into its "
            "convolutions, which nobody else does by default: the second and third rows are loops by hand that do, too.",
            "The same models, batch, losses and optimizer everywhere; the losses of the first five steps are asserted to agree to 1e-5 before anything is timed.",
            f"Medians of {PROCESSES} fresh processes, least to greatest in brackets, each the median of interleaved turns ("
            + ", ".join(f"{name}: {turns} of {steps} steps" for name, (turns, steps) in TURNS.items())
            + ").",
            "Beside it: ignite " + ", ".join([version("pytorch-ignite"), *versions]) + ".",
            *note_pins(present),
            *(f"{peer} could not be imported: {reason}." for peer, reason in missing.items()),
        ],
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--once" in sys.argv:
        print(json.dumps(measure(sys.argv[sys.argv.index("--once") + 1])))
        sys.stdout.flush()
    else:
        main()
