"""Loggers: who else is given what a run logs and measures; whichever distribution brings them, by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol
from warnings import warn

from stillhouse.config.structure import structure
from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.run import Run
from stillhouse.contract.step import Step
from stillhouse.entries import LOGGERS, find, installed, load_entry
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, first_line, raise_faults
from stillhouse.training.points import Point, Points, is_checkpoint_due
from stillhouse.training.scalars import metric_tags

__all__ = ["Logger", "Loggers", "find_loggers"]

_DEFAULT = "csv"


class Logger(Protocol):
    """What an entry point of the group ``stillhouse.loggers`` leads to: an attrs class, whose fields are its options.

    Made before anything is written, where it refuses what it cannot do, as a StillhouseError. What it raises later on is told of
    in a warning, once, and the run goes on without it. Of several processes the first one alone has loggers.
    """

    def open(self, run: Run) -> None:
        """The run starts, or goes on after ``run.trainer.state.iteration`` steps, those after which come once more.

        ``run.folder`` is there: the place for files is ``loggers`` in it, or ``metrics.csv``.
        """

    def write(self, points: Sequence[Point]) -> None:
        """Take points, in the order of their steps: those that stand before a checkpoint come before it is written."""

    def close(self, *, completed: bool) -> None:
        """The run has ended: at its end, or otherwise."""


class Loggers:
    """Gives each logger what the hooks ``logged`` and ``evaluated`` bring, in groups.

    Args:
        loggers: by name, not yet open.
    """

    name = "loggers"

    def __init__(self, loggers: Mapping[str, Logger]) -> None:
        self._loggers = loggers
        self._open: dict[str, Logger] = {}
        self._waiting = Points()
        self._completed = False

    @hookimpl
    def started(self, run: Run) -> None:
        """Open them."""
        self._open = dict(self._loggers)
        self._tell(lambda logger: logger.open(run))

    @hookimpl
    def logged(self, run: Run, step: Step, scalars: Mapping[str, float]) -> None:
        """Collect the step's scalars under their tags."""
        if self._waiting.add(step.iteration + 1, scalars) or is_checkpoint_due(run, step):
            self._hand_over()

    @hookimpl
    def evaluated(self, run: Run, split: str, metrics: Mapping[str, float]) -> None:
        """Collect the split's metrics, as ``SPLIT/METRIC``."""
        if self._waiting.add(run.trainer.state.iteration, metric_tags({split: metrics})):
            self._hand_over()

    @hookimpl
    def epoch_completed(self) -> None:
        """Hand over what is collected: a checkpoint may follow."""
        self._hand_over()

    @hookimpl
    def completed(self) -> None:
        """Remember that the run came to its end."""
        self._completed = True

    def close(self) -> None:
        """Hand over what is collected, and close them."""
        self._hand_over()
        self._tell(lambda logger: logger.close(completed=self._completed))
        self._open = {}

    def _hand_over(self) -> None:
        points = self._waiting.take()
        if points:
            self._tell(lambda logger: logger.write(points))

    def _tell(self, call: Callable[[Logger], None]) -> None:
        """Call each; one that fails is warned of and closed, and told nothing more."""
        for name, logger in list(self._open.items()):
            try:
                call(logger)
            except Exception as error:  # noqa: BLE001 - a full disk, a server that is away: what it is, the warning says
                del self._open[name]
                with suppress(Exception):  # it has failed already
                    logger.close(completed=False)
                what = f"the logger {name!r} failed, and the run goes on without: {first_line(error)}"
                warn(what, StillhouseWarning, stacklevel=2)


def find_loggers(chosen: Sequence[str | Mapping[str, Any]] | None) -> dict[str, Logger]:
    """The loggers that a recipe's ``run.loggers`` names, by name and not yet open.

    Raises:
        StillhouseError: every one that is not installed, is broken, stands there twice, or refuses an option.
    """
    if chosen is None:
        chosen = [_DEFAULT] if any(found.use == _DEFAULT for found in installed(LOGGERS)) else []
    loggers: dict[str, Logger] = {}
    faults: list[Fault] = []
    for index, entry in enumerate(chosen):
        where = f"run.loggers[{index}]"
        try:
            name, logger = _make_logger(entry, where)
            if name in loggers:
                raise StillhouseError(f"{name!r} stands there twice", where=where, hint="once is enough")
            loggers[name] = logger
        except StillhouseError as error:
            faults += error.faults
    raise_faults(faults)
    return loggers


def _make_logger(entry: str | Mapping[str, Any], where: str) -> tuple[str, Logger]:
    options = {"use": entry} if isinstance(entry, str) else dict(entry)
    name = options.pop("use", None)
    if not isinstance(name, str):
        raise StillhouseError("must name a logger", where=where, hint='{ use = "mlflow", experiment = "digits" }')
    if not installed(LOGGERS):
        raise StillhouseError("no logger is installed", where=where, hint="pip install stillhouse-loggers")
    made: Logger = structure(options, load_entry(find(LOGGERS, name, where), LOGGERS, where), where)
    return name, made
