"""The GPU proof: on a CUDA machine, the tests that need one and the throughput against a loop written by hand.

Target: 98% of the hand-written loop's throughput with features, normalizer and projector, for each of four students.

    python tests/benchmarks/gpu.py --write docs/benchmarks/gpu.md         # on a machine with CUDA
    python tests/benchmarks/gpu.py --device cpu --quick                   # a rehearsal: runs everything, measures nothing
    python tests/benchmarks/gpu.py --make-wheels wheels --python 3.12     # for a machine without a package index ...
    python tests/benchmarks/gpu.py --wheels wheels                        # ... where this installs them for itself

Every row is written as soon as it is measured, and one that is there is not measured again: a run that is cut short goes
on where it was. Exit code: 0 all is measured and met; 1 something failed or was missed; 2 it cannot run; 3 rows are left.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from _gpu_wheels import WheelsError, install, make_wheels

CANNOT = 2
BEGAN = time.monotonic()


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--device", default="cuda", choices=("cuda", "cpu"))
    add("--quick", action="store_true", help="tiny models, two turns: shows that everything runs, measures nothing")
    add("--minutes", type=float, default=60.0, help="begin nothing that would not end in this time (default 60)")
    add("--out", type=Path, help="folder of the results (default: the environment's OUT, else gpu-results)")
    add("--known", type=Path, help="a gpu.json with rows that need not be measured again")
    add("--write", type=Path, help="write the page to this file as well; not in a rehearsal")
    add("--only", default="", help="rows whose name has this in it, such as 'ViT-Tiny', 'compile' or 'all five'")
    add("--batch", type=int, help="images a step, instead of 256")
    add("--rounds", type=int, help="turns of each side, instead of 7; a verdict needs 5")
    add("--workers", type=int, default=8, help="processes of the row whose loader has any (default 8)")
    add("--backend", default="inductor", help="of torch.compile (default inductor)")
    add("--tests", choices=("first", "only", "no"), default="first", help="when to run the GPU-marked tests")
    add("--list", action="store_true", help="name the rows and end")
    add("--wheels", type=Path, help="folder of wheels: install from it what is missing, for this run only")
    add("--make-wheels", type=Path, help="gather such a folder here, and end")
    add("--python", default="3.12", help="Python of the machine that the wheels are for (default 3.12)")
    add("--have", default="numpy,pillow", help="what that machine has besides torch and torchvision")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line says; the exit code."""
    given = arguments().parse_args(argv)
    try:
        if given.make_wheels:
            print(make_wheels(given.make_wheels, given.python, [name for name in given.have.split(",") if name]))
            return 0
        if given.wheels:
            install(given.wheels)
    except WheelsError as error:
        return cannot(str(error))
    try:
        import torch

        import stillhouse  # noqa: F401 - the rest needs it, and it may have been installed a moment ago
    except ImportError as error:
        return cannot(f"{error}: install Stillhouse (make test), or bring it along (--make-wheels, --wheels)")
    if given.device == "cuda" and not torch.cuda.is_available():
        return cannot("there is no CUDA device here, so nothing was measured; --device cpu --quick rehearses it")
    from _gpu_proof import prove

    return prove(given, BEGAN)


def cannot(why: str) -> int:
    """Say why it does not run."""
    print(f"gpu.py: {why}", file=sys.stderr)
    return CANNOT


if __name__ == "__main__":
    sys.exit(main())
