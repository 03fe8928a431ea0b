"""Environments of their own: every requirement at its lower bound, or borrowed from the one that the tests run in."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Collection, Iterable
from pathlib import Path

from packaging.requirements import Requirement

from support.imports import ROOT

__all__ = ["call", "lend", "lowest", "make_environment"]


def lowest(parts: Iterable[str], extras: Collection[str] = ()) -> list[str]:
    """Each requirement of ``parts``, folders of the repository, at its highest lower bound: ``name==version``.

    ``extras`` are those of any of them whose requirements count as well.
    """
    found: dict[str, str] = {}
    for part in parts:
        project = tomllib.loads((ROOT / part / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        further = [text for extra in extras for text in project.get("optional-dependencies", {}).get(extra, ())]
        for requirement in map(Requirement, [*project["dependencies"], *further]):
            (bound,) = [spec.version for spec in requirement.specifier if spec.operator == ">="]
            if requirement.name.startswith("stillhouse"):
                continue
            if found.setdefault(requirement.name, bound) != bound:
                raise SystemExit(
                    f"{requirement.name}: one part asks for {bound}, another for {found[requirement.name]}"
                )
    return sorted(f"{name}=={bound}" for name, bound in found.items())


def call(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command and give what it prints; where it fails, end with that."""
    print("$", *[str(part).partition("\n")[0] or "..." for part in command], flush=True)
    # The networks are small: a second thread costs more than it brings, and most on a busy machine.
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(done.stdout)
    return done.stdout


def make_environment(folder: Path, *, pip: bool = True) -> Path:
    """The Python of the environment in ``folder``, which is made where it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.EnvBuilder(with_pip=pip, symlinks=True).create(folder)
    return python


def lend(python: Path) -> None:
    """Link what is installed here into the environment of ``python``, without what is ours: that comes by its wheel."""
    (target,) = python.parents[1].glob("lib/python*/site-packages")
    for folder in map(Path, sys.path):
        if folder.name in ("site-packages", "dist-packages"):
            for found in folder.iterdir():
                is_ours = found.name.startswith(("stillhouse", "_stillhouse", "__editable__"))
                link = target / found.name
                if not is_ours and found.suffix != ".pth" and not link.exists():
                    link.symlink_to(found)
