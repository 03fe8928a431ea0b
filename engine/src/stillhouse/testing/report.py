"""What the conformance kit says: an outcome for each check, what it costs, on the terminal and as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import attrs
from rich.console import Console
from rich.text import Text

from stillhouse.errors import StillhouseError
from stillhouse.terminal import make_table

__all__ = ["Cost", "Finding", "Note", "Outcome", "Report"]


@attrs.frozen
class Finding:
    """Something that a plugin does wrong.

    Attributes:
        what: what happens, and where.
        change: what to write instead.
    """

    what: str
    change: str

    def __str__(self) -> str:
        return f"{self.what} ({self.change})"


@attrs.frozen
class Note:
    """Something worth knowing that is no mistake: what was refused in words, or could not be tried.

    Attributes:
        text: one sentence.
    """

    text: str


@attrs.frozen
class Outcome:
    """What one check found.

    Attributes:
        check: its name.
        asks: what it asks, in one line.
        findings: what is wrong; none where the plugin passes.
        notes: what was refused or left out.
        ran: False for a check that could not be made, because the plugin does not train at all, or is slow and was not asked for.
        seconds: how long it took.
    """

    check: str
    asks: str
    findings: tuple[Finding, ...] = ()
    notes: tuple[Note, ...] = ()
    ran: bool = True
    seconds: float = 0.0

    @property
    def status(self) -> Literal["passed", "failed", "not run"]:
        """In a word."""
        return "failed" if self.findings else "passed" if self.ran else "not run"


@attrs.frozen
class Cost:
    """What the plugin adds to a step of the run that it was checked in; beside other models it is another.

    Attributes:
        parameters: trained numbers in its module.
        buffers: other numbers in its module.
        milliseconds: of a step with it.
        milliseconds_without: of a step of the same list without it; None where that list cannot be.
        saved_bytes: what autograd keeps for the backward pass of a step with it.
        saved_bytes_without: and without it.
    """

    parameters: int
    buffers: int
    milliseconds: float
    milliseconds_without: float | None
    saved_bytes: int
    saved_bytes_without: int | None


@attrs.frozen
class Report:
    """What :func:`stillhouse.testing.check_plugin` found.

    Attributes:
        plugin: its name, and where it is from.
        outcomes: one for each check, in order.
        cost: None where it does not train.
    """

    plugin: str
    outcomes: tuple[Outcome, ...]
    cost: Cost | None = None

    @property
    def passed(self) -> bool:
        """Whether no check found anything."""
        return not any(outcome.findings for outcome in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "plugin": self.plugin,
            "passed": self.passed,
            "checks": [
                {
                    "check": outcome.check,
                    "asks": outcome.asks,
                    "status": outcome.status,
                    "findings": [attrs.asdict(finding) for finding in outcome.findings],
                    "notes": [note.text for note in outcome.notes],
                    "seconds": round(outcome.seconds, 3),
                }
                for outcome in self.outcomes
            ],
            "cost": None if self.cost is None else attrs.asdict(self.cost),
        }

    def raise_for_findings(self) -> None:
        """Do nothing where the plugin passes.

        Raises:
            StillhouseError: with all findings.
        """
        text = "\n".join(_lines(self.outcomes))
        if not self.passed:
            raise StillhouseError(f"does not pass the conformance kit:\n{text}", where=self.plugin)

    def print(self, console: Console) -> None:
        """Print it: a line for each check, what to change, and what it costs."""
        table = make_table("check", "asks", "", title=self.plugin)
        for outcome in self.outcomes:
            style = {"passed": "green", "failed": "bold red", "not run": "dim"}[outcome.status]
            table.add_row(Text(outcome.check), Text(outcome.asks), Text(outcome.status, style=style))
        console.print(table)
        for outcome in self.outcomes:
            for note in outcome.notes:
                console.print(Text(f"{outcome.check}: {note.text}"), soft_wrap=True)
        for line in _lines(self.outcomes):
            console.print(Text(line), soft_wrap=True)
        if self.cost is not None:
            console.print(Text(_say_cost(self.cost)), soft_wrap=True)
        counts = [sum(outcome.status == status for outcome in self.outcomes) for status in ("passed", "failed")]
        console.print(f"{counts[0]} checks passed, {counts[1]} failed")


def _lines(outcomes: Iterable[Outcome]) -> list[str]:
    return [
        f"{outcome.check}: {finding.what}\n    -> {finding.change}"
        for outcome in outcomes
        for finding in outcome.findings
    ]


def _say_cost(cost: Cost) -> str:
    time, memory = f"{cost.milliseconds:.2f} ms", f"{cost.saved_bytes:,} bytes"
    if cost.milliseconds_without is not None:
        time = f"{time} ({cost.milliseconds_without:.2f} ms without it)"
        memory = f"{memory} ({cost.saved_bytes_without:,} without it)"
    return (
        f"cost: {cost.parameters:,} parameters, {cost.buffers:,} numbers in buffers; a step of these small models takes "
        f"{time} and keeps {memory} for the backward pass"
    )
