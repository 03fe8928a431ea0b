"""What a run gave, from Python."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from torch import nn

__all__ = ["Result", "restore_nans"]


@attrs.frozen(eq=False)
class Result:
    """What a run gave.

    Attributes:
        student: the trained model as the plugins' ``export`` left it: in eval mode, on the run's device, without taps;
            with ``[ema] evaluate = "instead"`` its averaged weights.
        metrics: of the last weights, by split: ``{"val": {"accuracy": ...}, "test": {...}}``; with ``[ema]`` also
            ``val_ema`` and ``test_ema``.
        history: the validation metrics after each epoch; empty for one that ``run.validate_every`` leaves out.
        summary: what summary.json holds.
        folder: the run's folder; None where nothing was written.
    """

    student: nn.Module
    metrics: dict[str, dict[str, float]]
    history: list[dict[str, float]]
    summary: dict[str, Any]
    folder: Path | None


def restore_nans(metrics: Mapping[str, Mapping[str, float | None]]) -> dict[str, dict[str, float]]:
    """A summary's metrics as a run gives them: null stands for what is not finite."""
    return {
        split: {name: math.nan if value is None else value for name, value in values.items()}
        for split, values in metrics.items()
    }
