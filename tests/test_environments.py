"""Environments of their own, in which wheels and the oldest libraries are tried: their bounds, and what is lent to them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.environments import lend, lowest, make_environment
from support.imports import ROOT


def test_the_lowest_versions_are_the_bounds_of_the_parts():
    bounds = lowest(["engine", "plugins/watcher"])
    engine = (ROOT / "engine" / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'"{bound.replace("==", ">=")}"' in engine for bound in bounds)
    assert {bound.partition("==")[0] for bound in bounds} >= {"torch", "torchvision", "pytorch-ignite", "pluggy"}
    assert not [bound for bound in bounds if bound.startswith("stillhouse")]


def test_parts_have_one_bound_for_a_library():
    parts = ["engine", *(str(about.parent.relative_to(ROOT)) for about in ROOT.glob("plugins/*/pyproject.toml"))]
    assert len({bound.partition("==")[0] for bound in lowest(parts)}) == len(lowest(parts))


def test_what_is_lent_can_be_imported_and_ours_is_not_among_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lender = tmp_path / "lender" / "site-packages"
    (lender / "theirs").mkdir(parents=True)
    (lender / "theirs" / "__init__.py").write_text("NAME = 'theirs'\n", encoding="utf-8")
    for name in ("stillhouse_at-1.dist-info", "stillhouse"):
        (lender / name).mkdir()
    (lender / "path.pth").write_text(str(tmp_path), encoding="utf-8")
    python = make_environment(tmp_path / "environment", pip=False)
    monkeypatch.setattr(sys, "path", [str(lender)])
    lend(python)
    lend(python)
    shown = subprocess.run(
        [python, "-c", "import theirs; print(theirs.NAME)"], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "theirs\n"
    (packages,) = python.parents[1].glob("lib/python*/site-packages")
    assert [path.name for path in packages.iterdir() if path.is_symlink()] == ["theirs"]
