"""FinishedRun: a run that was trained to its end, as comparisons take it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from stillhouse.config.recipe import Recipe

__all__ = ["FinishedRun"]


@attrs.frozen
class FinishedRun:
    """A run that was trained to its end.

    Attributes:
        folder: its folder.
        recipe: as it ran.
        summary: its summary.json.
        arm: its arm in an ablation; empty for any other run.
    """

    folder: Path
    recipe: Recipe
    summary: Mapping[str, Any]
    arm: str = ""
