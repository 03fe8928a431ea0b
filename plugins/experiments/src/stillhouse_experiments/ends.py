"""What a page says of values at the end of what was tried: a column of its table, and a sentence below what was chosen."""

from __future__ import annotations

from stillhouse.experiments.choice import END

__all__ = ["COLUMN", "shorten"]

COLUMN = f"chosen {END}"
"""The title of the column that names such values of an arm."""


def shorten(key: str) -> str:
    """A key as the column has it: ``features`` for that plugin's weight, ``rate`` for the learning rate."""
    return (
        "rate"
        if key == "optimizer.lr"
        else key.removeprefix("plugins.").removesuffix(".weight").rpartition("optimizer.")[2]
    )
