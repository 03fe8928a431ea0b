"""Fixtures of the tests of data."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
from support.loading import Given


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    """``given(value)``: the name of a callable that returns ``value``."""

    def make(value: Any) -> str:
        module = types.ModuleType("sh_given")
        vars(module)["make"] = lambda: value
        monkeypatch.setitem(sys.modules, "sh_given", module)
        return "sh_given:make"

    return make
