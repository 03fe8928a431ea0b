"""A task's metrics of outputs that no evaluator gives: a teacher's, or a training batch's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import torch
from ignite.metrics import Metric

from stillhouse.nested import PartlyLabelled, to_number

__all__ = ["OutputMetrics"]


class OutputMetrics:
    """Metrics that are fed by hand. One that cannot take an output, or has no number for it, is left out.

    Args:
        metrics: as :meth:`stillhouse.contract.task.Task.metrics` gives them; begun anew here.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = dict(metrics)
        for metric in self._metrics.values():
            metric.reset()

    @torch.no_grad()
    def take_in(self, output: Any, target: Any, inputs: Any) -> None:
        """Count one batch; of one that is partly labelled the labelled samples."""
        if isinstance(target, PartlyLabelled):
            output, target, inputs = target.select((output, target.values, inputs))
        seen = {"output": output, "target": target, "input": inputs, "features": {}}
        engine: Any = SimpleNamespace(state=SimpleNamespace(output=seen))  # all that a metric reads of one
        for name, metric in list(self._metrics.items()):
            try:
                metric.iteration_completed(engine)
            except Exception:  # noqa: BLE001 - an output of another form, of other classes: it has no such metric
                del self._metrics[name]

    def compute(self) -> dict[str, float]:
        """The metrics that are single numbers, by name; over all processes."""
        found = {}
        for name, metric in self._metrics.items():
            with suppress(Exception):
                number = to_number(metric.compute())
                if number is not None:
                    found[name] = number
        return found
