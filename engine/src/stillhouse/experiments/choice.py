"""What was chosen before anything was reported: which values of some keys, on which grid, and whether the best lay inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from stillhouse.experiments.search import find_ends

__all__ = ["CHOSEN", "END", "Choice", "tell_choices", "tell_ends"]

END = "†"
"""Marks a chosen value beyond which nothing was tried, though there are others."""

CHOSEN = "chosen"
"""The title of the column that has what arms have chosen for themselves."""


@attrs.frozen
class Choice:
    """Settings chosen for an arm.

    Attributes:
        arm: the arm's name.
        shared: whether all arms of its setting take it.
        metric: by which.
        seeds: over which its mean was taken.
        tried: settings and mean of the metric, in the order in which they were tried; no mean where a run had no score.
        chosen: the best settings: see :attr:`stillhouse.experiments.search.Search.best`.
    """

    arm: str
    shared: bool
    metric: str
    seeds: tuple[int, ...]
    tried: list[tuple[dict[str, Any], float | None]]
    chosen: dict[str, Any]

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Choice:
        """The choice of a table of JSON."""
        tried = [(cell, mean) for cell, mean in table["tried"]]
        return cls(**{**table, "seeds": tuple(table["seeds"]), "tried": tried})

    @property
    def ends(self) -> list[str]:
        """The keys for which what was chosen is at the end of what was tried."""
        return find_ends(self.chosen, [settings for settings, _ in self.tried])

    def tell_arm(self) -> str:
        """Who has chosen, and for whom."""
        return f"{self.arm}, for all arms" if self.shared else self.arm

    def tell_keys(self) -> list[str]:
        """The keys, as tables have them."""
        return [key.removeprefix("plugins.") for key in self.chosen]

    def tell_tried(self) -> str:
        """What was tried, with the mean of each."""
        return "; ".join(f"{_join(cell)}: {'–' if mean is None else f'{mean:.4f}'}" for cell, mean in self.tried)  # noqa: RUF001 - a dash

    def tell_values(self) -> list[str]:
        """The chosen values in the order of the keys, each at the end of what was tried marked."""
        return [f"{value} {END}" if key in self.ends else str(value) for key, value in self.chosen.items()]

    def tell(self) -> str:
        """Keys and values in one text."""
        return ", ".join(f"{key}={value}" for key, value in zip(self.tell_keys(), self.tell_values(), strict=True))


def tell_choices(choices: Sequence[Choice]) -> list[str]:
    """The sentences below a table of arms that have chosen for themselves; none where they have not."""
    if not choices:
        return []
    seeds = ", ".join(map(str, choices[0].seeds))
    lines = [
        f"{CHOSEN}: by each arm for itself before the runs of this table, by the mean of {choices[0].metric} over the seeds {seeds}, "
        "which are not reported, in runs that did not measure the test split."
    ]
    return lines + ([told] if (told := tell_ends(choices)) else [])


def tell_ends(choices: Sequence[Choice], *, of_statements: str = "") -> str:
    """The sentences on choices at the end of what was tried; empty where there are none.

    Args:
        choices: of all arms.
        of_statements: what is to be known of statements on such arms, where they tell more themselves than that.
    """
    count = sum(bool(choice.ends) for choice in choices)
    if not count:
        return ""
    of_all = "What is said of such an arm is so for the values that were tried, until it is run again on a wider grid."
    return (
        f"{END}: at the end of what was tried, in {count} of {len(choices)} choices: beyond it there may be better. "
        f"{of_statements or of_all}"
    )


def _join(settings: Mapping[str, Any]) -> str:
    return ", ".join(str(value) for value in settings.values())
