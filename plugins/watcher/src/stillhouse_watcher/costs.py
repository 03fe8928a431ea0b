"""What each plugin costs: milliseconds of a step, by hook and in the backward pass, memory and parameters."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from stillhouse import Run
from stillhouse.training.clock import IN_THE_STEP, Clock

__all__ = ["Costs", "Device", "measure_memory"]

_MB = 1e6


def measure_memory(module: nn.Module | None) -> tuple[int, int]:
    """``(parameters, bytes)`` of a plugin's module, its buffers among the bytes; of a parameter its gradient as well."""
    if module is None:
        return 0, 0
    parameters = list(module.parameters())
    size = sum(p.numel() * p.element_size() * (2 if p.requires_grad else 1) for p in parameters)
    return sum(p.numel() for p in parameters), size + sum(b.numel() * b.element_size() for b in module.buffers())


class Costs:
    """Adds up what the steps that were looked at have cost.

    Args:
        run: whose plugins are counted.
        clock: has timed their hooks.
    """

    def __init__(self, run: Run, clock: Clock) -> None:
        self._run, self._clock = run, clock
        self._looks = 0
        self._hooks: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._parts: defaultdict[str, float] = defaultdict(float)
        self._backward: defaultdict[str, float] = defaultdict(float)
        self._grown: defaultdict[str, int] = defaultdict(int)
        self._before: tuple[dict[tuple[str, str], float], dict[tuple[str, str], int]] = ({}, {})

    def begin(self) -> None:
        """A step is about to be looked at."""
        self._before = (dict(self._clock.seconds), dict(self._clock.grown))

    def add(self, parts: Mapping[str, float], by_term: Mapping[str, float]) -> dict[str, float]:
        """A step was looked at; its costs by tag.

        Args:
            parts: seconds of each part of the step: ``student``, ``teacher``, ``backward``, ``optimizer``, ``step``.
            by_term: seconds of each loss term's own backward pass; the step's is shared out as they are.
        """
        seconds, grown = self._before
        spent: defaultdict[str, float] = defaultdict(float)
        found = {}
        for (plugin, hook), value in self._clock.seconds.items():
            own = value - seconds.get((plugin, hook), 0.0)
            if hook in IN_THE_STEP and own > 0.0:
                self._hooks[plugin, hook] += own
                spent[plugin] += own
                found[f"cost_hook_ms/{plugin}.{hook}"] = own * 1e3
        whole = sum(by_term.values())
        for term, value in by_term.items():
            owner = term.split("/")[0]
            own = parts.get("backward", 0.0) * value / whole if whole else 0.0
            self._backward[owner] += own
            spent[owner] += own
        for (plugin, hook), size in self._clock.grown.items():
            self._grown[plugin] = max(self._grown[plugin], size - grown.get((plugin, hook), 0))
        for name, value in parts.items():
            self._parts[name] += value
        self._looks += 1
        found |= {f"cost_ms/{name}": value * 1e3 for name, value in spent.items() if name != "task"}
        found |= {f"cost_ms_of_step/{name}": value * 1e3 for name, value in parts.items()}
        for name in (plugin.name for plugin in self._run.plugins):
            found[f"memory_mb/{name}"] = self._measure(name)[1] / _MB
        return found

    def _measure(self, plugin: str) -> tuple[int, int]:
        count, size = measure_memory(self._run.composition.modules_of.get(plugin))
        return count, size + max(0, self._grown[plugin])

    def summarise(self) -> dict[str, Any]:
        """Means over the looks, as plain data; of hooks outside the step, all seconds of the run."""
        looks = max(self._looks, 1)
        step = self._parts["step"] / looks
        plugins = {}
        for name in (plugin.name for plugin in self._run.plugins):
            hooks = {hook: value / looks for (owner, hook), value in self._hooks.items() if owner == name}
            rare = {h: v for (owner, h), v in self._clock.seconds.items() if owner == name and h not in IN_THE_STEP}
            backward = self._backward[name] / looks
            whole = sum(hooks.values()) + backward
            count, size = self._measure(name)
            plugins[name] = {
                "ms": _round(whole * 1e3),
                "percent_of_step": _round(100 * whole / step) if step else None,
                "hooks_ms": {hook: _round(value * 1e3) for hook, value in hooks.items()},
                "backward_ms": _round(backward * 1e3),
                "outside_steps_s": {hook: _round(value) for hook, value in rare.items()},
                "parameters": count,
                "memory_mb": _round(size / _MB),
            }
        parts = {name: _round(value / looks * 1e3) for name, value in self._parts.items()}
        return {"looks": self._looks, "step_ms": parts, "plugins": plugins}


class Device:
    """How busy the device is, how much of its memory is taken, and how long the run waits for data.

    Args:
        run: says which device.
        clock: has measured the waiting.
    """

    def __init__(self, run: Run, clock: Clock) -> None:
        self._clock, self._device = clock, run.device
        self._began = self._wall = time.perf_counter()
        self._busy, self._waited = time.process_time(), clock.waited
        self._utilization = _find_utilization(run.device)

    def read(self) -> dict[str, float]:
        """Since the last reading, by tag; no wait for the device."""
        now, busy = time.perf_counter(), time.process_time()
        wall = max(now - self._wall, 1e-9)
        found = {"data/wait_percent": 100 * (self._clock.waited - self._waited) / wall}
        use = self._utilization()
        found["device/use_percent"] = 100 * (busy - self._busy) / wall if use is None else use
        found["device/memory_mb"] = self._memory()
        self._wall, self._busy, self._waited = now, busy, self._clock.waited
        return found

    def _memory(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / _MB
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MB

    def summarise(self) -> dict[str, Any]:
        """Of the whole run, its validation among it."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        return {
            "data_wait_percent": _round(100 * self._clock.waited / seconds),
            "samples_per_second": _round(self._clock.samples / seconds),
            "peak_memory_mb": _round(self._memory()),
        }


def _find_utilization(device: torch.device) -> Any:
    """Reads the device's own figure, where the driver's library is there; else gives None."""

    def read() -> float | None:
        return float(torch.cuda.utilization(device))

    try:
        read()
    except Exception:  # noqa: BLE001 - no GPU, no library of its driver, one of another version
        return lambda: None
    return read


def _round(value: float) -> float:
    return float(f"{value:.4g}")
