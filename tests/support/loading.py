"""Data loaded as a recipe would have it, and what is said where they cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillhouse.data import Data, DataSpec, load_data
from stillhouse.errors import StillhouseError

DIGITS = "sklearn:digits"


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
