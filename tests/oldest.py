"""All tests with the oldest libraries that are promised: ``python tests/oldest.py FOLDER``.

Every requirement of every part is at its lower bound, torch, torchvision, ignite and pluggy among them, in an environment of
its own in ``FOLDER``, which is made where it is not there. What the tests' own tools need newer is as they need it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from support.environments import call, lowest, make_environment
from support.imports import ROOT

PARTS = ("engine", *sorted(f"plugins/{about.parent.name}" for about in ROOT.glob("plugins/*/pyproject.toml")))
EXTRAS = ("onnx",)
"""torch 2.6's exporter takes the onnxscript of its time, and no newer one."""
NEWER = ("packaging", "safetensors")
"""What builds wheels and what reads weights in the tests, hatchling and transformers, take no bound of ours."""


def main() -> None:
    """Make the environment and run the tests in it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the environment")
    parser.add_argument(
        "rest",
        nargs=argparse.REMAINDER,
        help="what pytest is told; by default all tests, in as many processes as make test",
    )
    arguments = parser.parse_args()
    python = make_environment(arguments.folder.resolve())
    bounds = arguments.folder / "bounds.txt"
    bounds.write_text(
        "\n".join(x for x in lowest(PARTS, EXTRAS) if x.partition("==")[0] not in NEWER), encoding="utf-8"
    )
    install = (python, "-m", "pip", "install", "--quiet", "--no-compile")
    call(*install, "--upgrade", "pip>=25.1", cwd=ROOT)
    editable = [word for part in PARTS for word in ("-e", f"./{part}")]
    call(*install, "--constraint", bounds.resolve(), *editable, "--group", "test", cwd=ROOT)
    told = arguments.rest or ["-n", "auto", "--maxprocesses", "4", "--dist", "worksteal"]
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    sys.exit(subprocess.run([python, "-m", "pytest", *told], cwd=ROOT, env=env, check=False).returncode)


if __name__ == "__main__":
    main()
