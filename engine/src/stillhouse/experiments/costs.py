"""What the runs of a group have cost, and the alarms that they raised, as their summaries tell."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import attrs

__all__ = ["COSTS", "CountedAlarm", "average_costs", "count_alarms"]

COSTS = {
    "step_ms": "step, ms",
    "plugin_parameters": "plugins' parameters",
    "plugin_memory_mb": "plugins' memory, MB",
    "peak_memory_mb": "peak memory, MB",
    "samples_per_second": "samples/s",
}
"""The titles of what a run costs. The peak is a GPU's: on a CPU it would be that of all runs of the process together."""


@attrs.frozen
class CountedAlarm:
    """An alarm that runs of a group have raised.

    Attributes:
        kind: which rule it is of: ``zero matrix``.
        about: what it is about: a plugin, a term, a link, a metric.
        advice: what to try.
        runs: how many of the runs have raised it.
    """

    kind: str
    about: str
    advice: str
    runs: int


def average_costs(summaries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The means of each of ``COSTS`` over the runs that know it; what none knows is left out.

    A run that was not watched has no costs, and one whose step cannot be timed (``run.accumulate``) has no ``step_ms``.
    """
    found: defaultdict[str, list[float]] = defaultdict(list)
    for summary in summaries:
        for name, value in _read_costs(summary).items():
            found[name].append(value)
    return {name: sum(found[name]) / len(found[name]) for name in COSTS if name in found}


def _read_costs(summary: Mapping[str, Any]) -> dict[str, float]:
    costs = summary.get("costs") or {}
    values: dict[str, Any] = {
        "step_ms": _table(costs, "step_ms").get("step"),
        "samples_per_second": costs.get("samples_per_second"),
    }
    for name, key in (("plugin_parameters", "parameters"), ("plugin_memory_mb", "memory_mb")):
        each = [plugin.get(key) for plugin in _table(costs, "plugins").values() if isinstance(plugin, Mapping)]
        if "plugins" in costs and all(map(_is_number, each)):
            values[name] = sum(each)
    if str(summary.get("device", "")).startswith("cuda"):
        values["peak_memory_mb"] = costs.get("peak_memory_mb")
    return {name: float(value) for name, value in values.items() if _is_number(value)}


def count_alarms(summaries: Sequence[Mapping[str, Any]]) -> tuple[CountedAlarm, ...]:
    """The alarms of the runs, each once, those of the most runs first."""
    found: dict[tuple[str, str], CountedAlarm] = {}
    for summary in summaries:
        for alarm in summary.get("alarms") or []:
            kind, about, advice = (str(alarm.get(key, "")) for key in ("kind", "about", "advice"))
            before = found.get((kind, about), CountedAlarm(kind, about, advice, 0))
            found[kind, about] = attrs.evolve(before, runs=before.runs + 1)
    return tuple(sorted(found.values(), key=lambda alarm: -alarm.runs))


def _table(tables: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The table under ``key``; empty where it is none: summaries are files, which anybody may have edited."""
    value = tables.get(key)
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
