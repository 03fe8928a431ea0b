"""A finished run to be measured, exported and asked, and where its recipe's names are found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import FIVE, TESTS, recipe

from stillhouse import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all plugins whose inputs are normalised by its own data."""
    folder = tmp_path_factory.mktemp("runs") / "five"
    torch.set_num_threads(1)
    train(recipe(*FIVE.values(), data__normalize="data"), out=folder)
    return folder


@pytest.fixture
def in_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where the recipes' names are found, with lines that are long enough."""
    monkeypatch.chdir(TESTS)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.syspath_prepend(str(TESTS / "students"))
