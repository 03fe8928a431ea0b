"""What runs have written of themselves, lock, summary and an ablation's plan, read again and checked for its form.

Files are damaged, edited, or a stranger's; what is read here has the types that its readers count on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from stillhouse.config.structure import structure
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.files import read_table

__all__ = ["read_lock", "read_plan_tables", "read_summary"]

Kinds = Mapping[str, Any]

_TABLE, _TABLES = dict[str, Any], list[dict[str, Any]]
_SCORES = dict[str, float | None]

_LOCK: Kinds = {
    "plugins": _TABLES,
    "versions": dict[str, str],
    "device": str,
    "device_name": str,
    "data": str,
    "data_info": _TABLE,
    "recipe": str,
    "seed": int,
    "code": dict[str, str],
    "sources": dict[str, str],
    "outputs": _TABLE,
    "threads": int,
    "python": str,
}
_PLUGIN: Kinds = {"name": str, "use": str, "distribution": str, "version": str}

_SUMMARY: Kinds = {
    "name": str,
    "seed": int,
    "epochs": int,
    "steps": int,
    "steps_done": int,
    "seconds": float,
    "metrics": dict[str, _SCORES],
    "best": _SCORES | None,
    "stopped": _TABLE | None,
    "history": list[_SCORES],
    "plugins": list[str],
    "device": str,
    "student_parameters": int,
    "costs": _TABLE,
    "alarms": _TABLES,
}
_STOPPED: Kinds = {"epoch": int, "reason": str}

_PLAN: Kinds = {"name": str, "recipe": _TABLE, "seeds": list[int], "arms": _TABLES}
_ARM: Kinds = {
    "name": str,
    "kind": str,
    "folder": str,
    "plugins": list[str],
    "settings": dict[str, str],
    "group": str,
    "reason": str,
    "also": list[str],
    "identity": str,
}


def read_lock(path: Path) -> dict[str, Any]:
    """A run's lock.

    Raises:
        StillhouseError: it cannot be read, or a key has not the form that a run writes.
    """
    lock = read_table(path, "a run's lock")
    _check(lock, _LOCK, ("plugins", "versions", "device"), path)
    for index, plugin in enumerate(lock["plugins"]):
        _check(plugin, _PLUGIN, _PLUGIN, path, f"plugins[{index}]")
    return lock


def read_summary(path: Path) -> dict[str, Any]:
    """A run's summary.

    Raises:
        StillhouseError: as for :func:`read_lock`.
    """
    summary = read_table(path, "a run's summary")
    _check(summary, _SUMMARY, ("name", "seed", "epochs", "steps", "seconds", "metrics", "plugins", "history"), path)
    best = summary.get("best") or {"epoch": 1, "": 0.0}
    if "epoch" not in best or len(best) < 2 or None in best.values():
        raise StillhouseError(f"must have an epoch and its score, got {best}", where=f"{path}: best")
    if summary.get("stopped"):
        _check(summary["stopped"], _STOPPED, _STOPPED, path, "stopped")
    return summary


def read_plan_tables(path: Path) -> dict[str, Any]:
    """An ablation's plan.

    Raises:
        StillhouseError: as for :func:`read_lock`; or an arm's folder would lie elsewhere than in the ablation's.
    """
    plan = read_table(path, "an ablation's plan")
    if not plan.keys() >= _PLAN.keys():
        raise StillhouseError("is not an ablation's plan", where=str(path), hint="name another with --out")
    _check(plan, _PLAN, _PLAN, path)
    for index, arm in enumerate(plan["arms"]):
        _check(arm, {**_ARM, "merged": list[str]}, _ARM, path, f"arms[{index}]")
        folder = Path(arm["folder"])
        if folder.is_absolute() or ".." in folder.parts:
            what = f"must lie in the ablation's folder, got {arm['folder']!r:.80}"
            raise StillhouseError(what, where=f"{path}: arms[{index}].folder")
    return plan


def _check(table: Mapping[str, Any], kinds: Kinds, needed: Collection[str], path: Path, place: str = "") -> None:
    where = f"{path}: {place}." if place else f"{path}: "
    faults = [Fault(f"{where}{key}", "missing key") for key in needed if key not in table]
    for key, kind in kinds.items():
        if key in table:
            try:
                structure(table[key], kind, f"{where}{key}")
            except StillhouseError as error:
                faults += error.faults
    raise_faults(faults)
