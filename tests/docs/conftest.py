"""What the pages write, installed; commands run at the root as a reader runs them."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.imports import ROOT
from support.pages import DOCUMENTED, documented


def install(make: Callable[..., Path], use: str) -> str:
    """Install a plugin that a page writes as its own pyproject.toml would; returns its code."""
    source, about = documented(use)
    project = tomllib.loads(about)["project"]
    make(project["name"], project["entry-points"]["stillhouse.plugins"], source, project["version"])
    return source


@pytest.fixture
def documented_plugins(fake_distribution: Callable[..., Path]) -> Iterator[dict[str, str]]:
    """The plugins that the first run and the tutorial write, installed."""
    yield {use: install(fake_distribution, use) for use in DOCUMENTED}
    for use in DOCUMENTED:
        sys.modules.pop(f"stillhouse_{use}", None)


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")
