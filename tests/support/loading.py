"""Data loaded as a recipe would have it, and what is said where they cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillhouse.data import Data, DataSpec, load_data
from stillhouse.errors import StillhouseError

DIGITS = "sklearn:digits"

Given = Callable[[Any], str]
"""The fixture ``given``: the name of a callable that returns a value."""


class Listed:
    """A data set of any items, perhaps with ``targets`` and ``classes``; counts what is read."""

    def __init__(self, items: list[Any], **attributes: Any) -> None:
        self.items, self.read = items, 0
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        self.read += 1
        return self.items[i]


def load(name: str = DIGITS, seed: int = 0, base: Path | None = None, **options: Any) -> Data:
    return load_data(DataSpec(name=name, **options), seed=seed, base=base)


def faults_of(name: str = DIGITS, **options: Any) -> list[str]:
    with pytest.raises(StillhouseError) as caught:
        load(name, **options)
    return [str(fault) for fault in caught.value.faults]


def fault_of(name: str = DIGITS, **options: Any) -> str:
    (fault,) = faults_of(name, **options)
    return fault


def ids_of(data: Data, split: str) -> list[int]:
    return [int(i) for batch in data.evaluation(split) for i in batch.id]
