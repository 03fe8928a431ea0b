"""Which of a run's weights are meant: the one choice that every reader of a run's folder has."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["KeptWeights"]

KeptWeights: TypeAlias = Literal["best", "last"]
"""``best``: of the epoch with the best validation score; ``last``: of the last step. Where nothing is said: the best where the
run has kept them, which it has not without a validation split or with ``[checkpoints] best = false``, and else the last."""
