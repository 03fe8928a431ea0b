"""Checks of options."""

from __future__ import annotations

import math

from stillhouse import Fault
from stillhouse.errors import raise_faults

__all__ = ["check_counts", "check_not_negative", "check_positive", "check_shares"]


def check_positive(**values: float) -> None:
    """Raise a StillhouseError with every option that is not finite and above 0."""
    raise_faults(
        Fault(name, f"must be finite and > 0, got {value}")
        for name, value in values.items()
        if not 0 < value < math.inf
    )


def check_not_negative(**values: float) -> None:
    """Raise a StillhouseError with every option that is not finite and at least 0."""
    raise_faults(
        Fault(name, f"must be finite and >= 0, got {value}")
        for name, value in values.items()
        if not 0 <= value < math.inf
    )


def check_shares(**values: float) -> None:
    """Raise a StillhouseError with every option that is not from 0 to below 1."""
    raise_faults(
        Fault(name, f"must be from 0 to below 1, got {value}") for name, value in values.items() if not 0 <= value < 1
    )


def check_counts(**values: int) -> None:
    """Raise a StillhouseError with every option that is below 1."""
    raise_faults(Fault(name, f"must be >= 1, got {value}") for name, value in values.items() if value < 1)
