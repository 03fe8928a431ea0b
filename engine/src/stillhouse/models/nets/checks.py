"""What the networks' functions check of their arguments."""

from __future__ import annotations

from stillhouse.errors import Fault, raise_faults

__all__ = ["at_least_one"]


def at_least_one(**values: int) -> None:
    """Refuse numbers below 1.

    Raises:
        StillhouseError: a fault for each, at the argument's name.
    """
    raise_faults(Fault(name, f"{value} is below 1") for name, value in values.items() if value < 1)
