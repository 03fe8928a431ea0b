"""What successive halving has stopped: which arm, after how many epochs, and what it had reached beside its control."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

__all__ = ["StoppedArm", "tell_stopped"]


@attrs.frozen
class StoppedArm:
    """An arm that was stopped before any of its runs that would be reported.

    Attributes:
        arm: the arm's name.
        epochs: after which it was stopped.
        of: the epochs of the runs that are reported.
        metric: by which.
        mean: of the metric over the seeds; None where one of its runs failed.
        control: the arm that it was behind.
        control_mean: likewise, of that one.
        seeds: over which the means were taken, none of them reported.
    """

    arm: str
    epochs: int
    of: int
    metric: str
    mean: float | None
    control: str
    control_mean: float
    seeds: tuple[int, ...]

    def tell(self) -> str:
        """The remark of the arm's row."""
        reached = "a run that failed" if self.mean is None else f"{self.metric} {self.mean:.4f}"
        return f"stopped after {self.epochs} of {self.of} epochs, with {reached}; {self.control} had {self.control_mean:.4f}"


def tell_stopped(stopped: Sequence[StoppedArm]) -> list[str]:
    """The sentence below a table some of whose arms were stopped; none where none was."""
    if not stopped:
        return []
    return [
        f"stopped: {len(stopped)} arms by successive halving before the runs of this table, by the mean of {stopped[0].metric} over "
        f"the seeds {', '.join(map(str, stopped[0].seeds))}, which are not reported. They are in no test, and in no family of "
        "comparisons; nothing is said of what they would reach in a whole run."
    ]
