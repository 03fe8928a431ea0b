"""A student that says one class whatever it sees: its score stands still, and the run is told why."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from torch import Tensor

from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.run import Run
from stillhouse.errors import StillhouseWarning
from stillhouse.tasks.maps import get_class_name
from stillhouse.training.score import find_score

__all__ = ["OneClass"]

_OFTEN = 5
"""Measurements in a row, at least."""

_SHARE = 4
"""And at least a fourth of the run's: while the learning rate warms up it is common, and passes."""


class OneClass:
    """Looks at the validation's recall by class: 1 for one class and 0 for all others means that it is always said.

    Warned of once in a run. How often it was said is not kept over a resume.
    """

    name = "one class"

    def __init__(self) -> None:
        self._found: tuple[int | None, float | None] = (None, None)
        self._times = 0

    @hookimpl
    def evaluated(self, run: Run, split: str, metrics: Mapping[str, float]) -> None:
        """Look at what has just been measured."""
        often = max(_OFTEN, run.epochs // (_SHARE * run.recipe.run.validate_every))
        if split != "val" or self._times >= often:
            return
        said = find_only_class(run.evaluator.state.metrics.get("recall"))
        found = (said, metrics.get(find_score(run.recipe.checkpoints, run.task).name))
        self._times = self._times + 1 if said is not None and found == self._found else int(said is not None)
        self._found = found
        if said is not None and self._times >= often:
            warnings.warn(
                f"{run.recipe.run.name}: the student has said {get_class_name(run.data, said)!r} for every validation "
                f"sample in {often} measurements, so that its score does not move: a lower "
                'optimizer.lr, data.sampling = "balanced" or task.args = { class_weights = "balanced" } may help',
                StillhouseWarning,
                stacklevel=2,
            )


def find_only_class(recall: object) -> int | None:
    """The class that is found always where no other one of the split is ever found; None where there is no such class.

    Args:
        recall: by class, NaN for one without samples; anything else is a task without recall.
    """
    if not isinstance(recall, Tensor) or recall.ndim != 1:
        return None
    there = ~recall.isnan()
    if int(there.sum()) < 2 or float(recall[there].sum()) != 1.0 or float(recall[there].max()) != 1.0:
        return None
    return int(recall.nan_to_num(0.0).argmax())
