"""Alarms: what is sick in a run, in words, each said once: on the terminal, in TensorBoard and in the summary."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from stillhouse.contract.protocols import ProgressReport

__all__ = ["Alarm", "Alarms"]


@attrs.frozen
class Alarm:
    """Something that is wrong with a run, which goes on.

    Attributes:
        kind: which rule it is of: ``zero matrix``.
        about: what it is about: a plugin, a term, a link, a metric.
        what: what was seen, a sentence.
        advice: what to try.
        step: after which optimizer step it was seen, from 1.
    """

    kind: str
    about: str
    what: str
    advice: str
    step: int

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}"

    def to_dict(self) -> dict[str, str | int]:
        """As the summary has it."""
        return attrs.asdict(self)


class Alarms:
    """The alarms of a run since it began, or went on: each kind once for each thing that it is about.

    Args:
        progress: says each on the terminal.
    """

    def __init__(self, progress: ProgressReport) -> None:
        self._progress = progress
        self._raised: dict[tuple[str, str], Alarm] = {}
        self._told = 0

    def __iter__(self) -> Iterator[Alarm]:
        """All of them, in the order in which they were raised."""
        return iter(self._raised.values())

    def sound(self, alarm: Alarm) -> None:
        """Raise ``alarm``, unless it was before."""
        if (alarm.kind, alarm.about) in self._raised:
            return
        self._raised[alarm.kind, alarm.about] = alarm
        self._progress.say(f"alarm, step {alarm.step}: {alarm}")

    def take_new(self) -> list[Alarm]:
        """Those that this has not returned before."""
        new = list(self)[self._told :]
        self._told = len(self._raised)
        return new
