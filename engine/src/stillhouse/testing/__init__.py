"""The kit for authors of plugins: a package from a template, and what any plugin keeps to, tried in short runs.

Imports: students, training and below.
Public: this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillhouse.testing.conformance import check_plugin
    from stillhouse.testing.material import SmallNet, make_data
    from stillhouse.testing.report import Cost, Finding, Note, Outcome, Report

_LAZY = {
    "Cost": "report",
    "Finding": "report",
    "Note": "report",
    "Outcome": "report",
    "Report": "report",
    "SmallNet": "material",
    "check_plugin": "conformance",
    "make_data": "material",
}

__all__ = ["Cost", "Finding", "Note", "Outcome", "Report", "SmallNet", "check_plugin", "make_data"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"stillhouse.testing.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'stillhouse.testing' has no attribute {name!r}")
