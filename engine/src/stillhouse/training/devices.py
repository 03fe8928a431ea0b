"""The device that a recipe names."""

from __future__ import annotations

import torch

from stillhouse.errors import StillhouseError, first_line

__all__ = ["find_device"]


def find_device(name: str) -> torch.device:
    """The device that a recipe's ``run.device`` names.

    Raises:
        StillhouseError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the device `meta` has shapes and no numbers
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:  # as each device's code says it
        first = first_line(error)
        raise StillhouseError(
            f"must be a device of this machine, got {name!r}: {first}", where="run.device", hint="auto, cpu or cuda"
        ) from None
    return device
