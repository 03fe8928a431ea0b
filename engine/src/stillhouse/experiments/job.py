"""Jobs: a run of a plan is trained under a lock where it is not finished; an error is returned as a value."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from stillhouse.config.recipe import Recipe
from stillhouse.config.trust import is_trusting, trusting
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.experiments.plan import PlannedRun, read_finished_summary
from stillhouse.files import write_text
from stillhouse.teachers.store import get_or_make

__all__ = ["Job", "Outcome", "collect_warnings", "run_job", "warn_of_runs"]


@attrs.frozen
class Job:
    """A run to train, in the form that is sent to a worker.

    Attributes:
        index: the run's number in its plan.
        arm: the arm's name.
        seed: the run's seed.
        folder: the run's folder.
        recipe: the recipe's tables.
        trust: whether runs that the recipe names may name any code: see :mod:`stillhouse.config.trust`.
    """

    index: int
    arm: str
    seed: int
    folder: str
    recipe: dict[str, Any]
    trust: bool = False

    @classmethod
    def of(cls, run: PlannedRun, device: str = "") -> Job:
        """Return the job of ``run``, on ``device`` instead of its recipe's where one is given."""
        recipe = run.recipe
        if device:
            recipe = attrs.evolve(recipe, run=attrs.evolve(recipe.run, device=device))
        return cls(run.index, run.arm, run.seed, str(run.folder), recipe.to_dict(), is_trusting())


@attrs.frozen
class Outcome:
    """The result of a job.

    Attributes:
        job: the job.
        summary: of the finished run; None where it failed.
        error: the error's text, one or more lines; empty where it did not fail.
        warnings: the texts of its warnings.
    """

    job: Job
    summary: dict[str, Any] | None
    error: str = ""
    warnings: tuple[str, ...] = ()


def run_job(job: Job) -> Outcome:
    """Train or resume the run, unless it is finished already.

    Waits for another process that trains the same run. An error is written to ``seed-K.error.txt`` beside the run's
    folder, with its traceback, and returned; only an interruption is raised.
    """
    folder = Path(job.folder)
    report = folder.with_name(f"{folder.name}.error.txt")
    told: list[str] = []
    try:
        with collect_warnings(told), trusting(job.trust):
            recipe = Recipe.from_dict(job.recipe)
            summary = get_or_make(
                folder, lambda: read_finished_summary(folder, recipe), lambda: _trained(recipe, folder)
            )
        report.unlink(missing_ok=True)
    except Exception as error:  # noqa: BLE001 - one run's error must not end the others
        if isinstance(error, StillhouseError):
            text = "; ".join(str(fault) for fault in error.faults)
        else:
            text = f"{type(error).__name__}: {error}"
        text = "\n".join([text, *getattr(error, "__notes__", [])])
        with suppress(StillhouseError):  # a full disk: the text below says it
            write_text(report, "".join(traceback.format_exception(error)))
        return Outcome(job, None, text, tuple(told))
    return Outcome(job, summary, "", tuple(told))


def _trained(recipe: Recipe, folder: Path) -> dict[str, Any]:
    from stillhouse.training.preparation import train  # most of the engine, which a plan by itself does not need

    return train(recipe, out=folder, resume=True).summary


@contextmanager
def collect_warnings(told: list[str]) -> Iterator[None]:
    """Collect Stillhouse's warnings in ``told``, to show them once for all runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", StillhouseWarning)
        shown = warnings.showwarning

        def keep(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, StillhouseWarning):
                told.append(str(message))
            else:
                shown(message, category, *rest, **more)

        warnings.showwarning = keep
        yield


def warn_of_runs(told: Sequence[str]) -> None:
    """Show warnings that were collected, each once."""
    for text in dict.fromkeys(told):
        warnings.warn(text, StillhouseWarning, stacklevel=3)
