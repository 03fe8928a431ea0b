"""Distributions built into wheels, as whoever publishes one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "{version}"
description = "{summary}"
dependencies = ["stillhouse>=0.1"]
[project.entry-points."stillhouse.plugins"]
{use} = "{package}{target}"
[tool.hatch.build.targets.wheel]
packages = ["{package}"]
"""


def make_project(name: str, use: str, target: str, *, version: str = "0.1.0", summary: str = "A plugin") -> str:
    """The pyproject.toml of somebody's plugin ``use``, which is at ``target`` in the package called as the distribution."""
    package = name.replace("-", "_")
    return PROJECT.format(name=name, version=version, summary=summary, use=use, package=package, target=target)


def wheel(source: Path, into: Path) -> Path:
    """Build a wheel, without an index."""
    before = set(into.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", "--wheel-dir", str(into), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (made,) = set(into.glob("*.whl")) - before
    return made
