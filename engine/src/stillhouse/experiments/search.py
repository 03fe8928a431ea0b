"""A search for the best values of some options: a grid, which goes on at an end where the best is.

A grid's end is where nobody has looked beyond: what is chosen there may be no optimum. So the grid is widened on that side,
by its own factor and at most so often, until the best has worse on both sides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import attrs
import numpy as np

from stillhouse.errors import StillhouseError

__all__ = ["Search", "Tried", "Values", "find_ends", "go_on", "list_cells"]

Values = Mapping[str, Sequence[Any]]
"""The values to choose from, by key."""


@attrs.frozen
class Tried:
    """One cell of a grid, and how good it was.

    Attributes:
        settings: a value for each key.
        scores: a number for each seed, the same seeds in the same order for all cells; empty where one of them has no
            finite score: such a cell is never chosen.
    """

    settings: dict[str, Any]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """The mean of the scores; None without."""
        return sum(self.scores) / len(self.scores) if self.scores else None


def _copy(values: Values) -> dict[str, list[Any]]:
    return {key: list(each) for key, each in values.items()}


@attrs.define
class Search:
    """The search of one arm, round by round: :meth:`open_cells` are measured, and :meth:`add` takes their scores.

    Attributes:
        values: the grid, to which widening adds.
        mode: whether the greatest or the least score is the best.
        widen: how many values may be added to each key's at the most.
        tried: what has been measured.
    """

    values: dict[str, list[Any]] = attrs.field(converter=_copy)
    mode: Literal["max", "min"] = "max"
    widen: int = 0
    tried: list[Tried] = attrs.field(factory=list)
    _added: dict[str, int] = attrs.field(factory=dict, init=False)

    def open_cells(self) -> list[dict[str, Any]]:
        """The cells to be measured now; none: the choice stands.

        At first the whole grid; then, where the best is at an end of some key's values, those with a further value of that
        key, by every value of the other keys.
        """
        waiting = self._list_waiting()
        if waiting or not any(each.scores for each in self.tried):
            return waiting  # where nothing works there is no side to look on
        chosen = self.best.settings
        for key in self.ends:
            if self._added.get(key, 0) < self.widen:
                self.values[key].append(go_on(self.values[key], chosen[key]))
                self._added[key] = self._added.get(key, 0) + 1
        return self._list_waiting()

    def _list_waiting(self) -> list[dict[str, Any]]:
        known = [each.settings for each in self.tried]
        return [cell for cell in list_cells(self.values) if cell not in known]

    def add(self, settings: Mapping[str, Any], scores: Sequence[float]) -> None:
        """Take the scores of a cell: see :class:`Tried`."""
        self.tried.append(Tried(dict(settings), tuple(scores) if all(map(math.isfinite, scores)) else ()))

    @property
    def best(self) -> Tried:
        """The cell with the best mean; of those that noise does not tell from it, the one with the fewest ends.

        Noise is the standard error of the mean difference by seeds; under one seed it is not known, and only equal scores
        are a tie. Of equals that are as far inside the better one is chosen, and then the first.

        Raises:
            StillhouseError: no cell has a score.
        """
        found = [each for each in self.tried if each.scores]
        if not found:
            raise StillhouseError("no value has a finite score under every seed")
        sign = 1.0 if self.mode == "max" else -1.0
        means = [sign * float(np.mean(each.scores)) for each in found]
        top = found[means.index(max(means))]
        every = [each.settings for each in self.tried]

        def rank(place: int) -> tuple[int, float]:
            return len(find_ends(found[place].settings, every)), -means[place]

        return found[min((i for i, each in enumerate(found) if _is_tie(top.scores, each.scores)), key=rank)]

    @property
    def ends(self) -> list[str]:
        """The keys for which the best is at the end of what was tried."""
        return find_ends(self.best.settings, [each.settings for each in self.tried])


def list_cells(values: Values) -> list[dict[str, Any]]:
    """Every combination of the values, the last key fastest: ``{key: value}`` each."""
    return [dict(zip(values, cell, strict=True)) for cell in itertools.product(*values.values())]


def find_ends(chosen: Mapping[str, Any], tried: Collection[Mapping[str, Any]]) -> list[str]:
    """The keys whose chosen value is the least or the greatest that was tried, and beyond which there are others.

    Names, switches and 0, the least weight that there is, have nothing beyond them; nor has a value that was the only one.
    """
    return [key for key, value in chosen.items() if go_on([cell[key] for cell in tried], value) is not None]


def go_on(values: Sequence[Any], value: Any) -> Any | None:
    """The next value beyond ``value``, by the ratio of the two at that end; None where it is at no end, or none is beyond it.

    0.1, 1, 10 goes on with 100 or 0.01; whole numbers stay whole, from 1 on.
    """
    scale = sorted(set(values)) if all(_is_number(each) for each in values) else []
    if len(scale) < 2 or value not in (scale[0], scale[-1]) or scale[0] < 0 or value == 0:
        return None
    beside = scale[1] if value == scale[0] else scale[-2]
    if not beside:
        return None  # 0 and one other: there is no ratio
    found = float(f"{value * value / beside:.6g}")
    if all(isinstance(each, int) for each in scale):
        found = round(found)
    return found if found > 0 and found not in scale else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_tie(best: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the mean difference by seeds is within its standard error."""
    x = np.asarray(best) - np.asarray(other)
    error = float(x.std(ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else 0.0
    return abs(float(x.mean())) <= error
