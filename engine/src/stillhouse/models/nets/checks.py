"""Checks of the networks' arguments."""

from __future__ import annotations

from stillhouse.errors import Fault, raise_faults

__all__ = ["check_counts"]

_MOST = {"stages": 20, "depth": 1_000}
"""Stages, each of twice the channels of the one before, and layers: with more, building the network would not end."""

_CHANNELS = 2**20


def check_counts(**values: int) -> None:
    """Refuse numbers below 1, and those that no network has.

    Raises:
        StillhouseError: a fault for each, at the argument's name.
    """
    faults = []
    for name, value in values.items():
        most = _MOST.get(name, _CHANNELS)
        if not isinstance(value, int) or isinstance(value, bool):
            faults.append(Fault(name, f"must be a whole number, got {value!r:.80}"))
        elif value < 1:
            faults.append(Fault(name, f"must be >= 1, got {value}"))
        elif value > most:
            faults.append(Fault(name, f"must be at most {most:,}, got {value}"))
    raise_faults(faults)
