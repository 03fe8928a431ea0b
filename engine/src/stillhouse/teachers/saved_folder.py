"""What a run's folder says of its data, for whoever builds its model again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from stillhouse.config.recipe import Recipe
from stillhouse.config.structure import structure
from stillhouse.contract.batch import DataInfo
from stillhouse.data.loader import load_data
from stillhouse.errors import StillhouseError
from stillhouse.tasks.builder import build_task

__all__ = ["read_info", "read_lock"]


def read_lock(path: Path) -> dict[str, Any]:
    """What a run's ``lock.json`` holds.

    Raises:
        StillhouseError: it cannot be read.
    """
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StillhouseError(f"cannot be read: {error}", where=str(path)) from None
    if not isinstance(lock, dict):
        raise StillhouseError("is not a run's lock: it must hold a table", where=str(path))
    return lock


def read_info(lock: Mapping[str, Any], recipe: Recipe) -> DataInfo:
    """What the run of ``recipe`` knew of its data, from its lock; of an older run, from the data themselves."""
    known = lock.get("data_info")
    if isinstance(known, Mapping):
        fields = {a.name for a in attrs.fields(DataInfo)}
        tables = {k: v for k, v in known.items() if k in fields}
        return structure({**tables, "fingerprint": str(lock.get("data", ""))}, DataInfo, "lock.json: data_info")
    data = load_data(recipe.data, build_task(recipe.task, recipe.base), seed=recipe.run.seed, base=recipe.base)
    try:
        return data.info
    finally:
        data.close()
