"""What a run's folder says of its data, for whoever builds its model again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from stillhouse.config.recipe import Recipe
from stillhouse.config.structure import structure
from stillhouse.contract.batch import DataInfo
from stillhouse.data.loader import load_data
from stillhouse.tasks.builder import build_task

__all__ = ["read_info"]


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
