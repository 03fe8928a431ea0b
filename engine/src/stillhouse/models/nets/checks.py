"""Checks of the networks' arguments."""

from __future__ import annotations

from stillhouse.errors import Fault, raise_faults

__all__ = ["check_at_least_one"]


def check_at_least_one(**values: int) -> None:
    """Refuse numbers below 1.

    Raises:
        StillhouseError: a fault for each, at the argument's name.
    """
    raise_faults(Fault(name, f"must be >= 1, got {value}") for name, value in values.items() if value < 1)
