"""Checks of whole runs: trained, trained again, cut in two, loaded."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ignite.engine import Events

from stillhouse.errors import StillhouseError
from stillhouse.students.evaluation import evaluate
from stillhouse.students.loader import load_student
from stillhouse.testing.report import Finding, Note
from stillhouse.testing.subject import Subject, differences, is_finite

__all__ = ["check_loading", "check_repeatability", "check_resume", "check_training", "check_weight_zero", "say_error"]

_CHANGES_MORE = ("adapt", "prepare_batch", "teacher_forward", "transform", "sample_weights", "combine_gradients")
"""Hooks by which a plugin does something beside its terms."""


class _KilledError(BaseException):
    """What a run that is cut in two dies of."""


def say_error(error: BaseException) -> str:
    """An error in a line: its type, message and notes, which name plugin and hook, and the line it was raised in."""
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", []))
    kind = "" if isinstance(error, StillhouseError) else f"{type(error).__name__}: "
    frames = traceback.extract_tb(error.__traceback__)
    place = f"; {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames and kind else ""
    return f"{kind}{error}{notes}{place}"


def check_training(subject: Subject) -> Iterator[Finding]:
    """Does a short run of it begin and end, with finite numbers?"""
    try:
        trained = subject.whole
    except StillhouseError as error:
        yield from (Finding(str(fault), "as it says; nothing else can be checked before") for fault in error.faults)
        return
    except Exception as error:  # noqa: BLE001 - whatever the plugin raises is the finding
        yield Finding(
            f"the run ends in {say_error(error)}", "mend it; a user's mistake is a StillhouseError that says what to do"
        )
        return
    if not is_finite(trained.state):
        yield Finding(
            "after six steps a weight is not finite", "compute in float32, and keep roots, logarithms and norms from 0"
        )


def check_repeatability(subject: Subject) -> Iterator[Finding]:
    """Does the same seed give the same run, bit for bit?"""
    again = subject.fit()
    changed = differences(subject.whole.state, again.state)
    if changed:
        yield Finding(
            f"two runs of one seed differ, in {_some(changed)}",
            "draw from torch's generators alone, or one in the module; keep no count and no cache outside the module",
        )


def check_resume(subject: Subject) -> Iterator[Finding | Note]:
    """Does a run that was cut in the middle of an epoch end as one in one piece, bit for bit?"""
    changes = {"checkpoints": {"every_steps": 2}}
    with tempfile.TemporaryDirectory() as folder:
        training = subject.prepare(changes=changes, out=Path(folder) / "run")
        steps = training.run.total_steps
        at = max(2, steps - 1)
        if steps < 3:
            yield Note("the run is too short to be cut")
            return

        def kill() -> None:
            raise _KilledError

        training.run.trainer.add_event_handler(Events.ITERATION_STARTED(once=at), kill)
        with suppress(_KilledError):
            training.fit()
        whole = subject.whole
        resumed = subject.fit(changes=changes, out=Path(folder) / "run", resume=True)
    changed = differences(whole.state, resumed.state)
    if changed:
        yield Finding(
            f"a run that goes on ends elsewhere than one in one piece, in {_some(changed)}",
            "keep what a later step needs in the module that build returns: parameters, and buffers by register_buffer; "
            "what counts steps is step.iteration",
        )


def check_loading(subject: Subject) -> Iterator[Finding | Note]:
    """Does a finished run load, and measure as the training did?"""
    with tempfile.TemporaryDirectory() as folder:
        trained = subject.fit(out=Path(folder) / "run")
        then = trained.training.run.metrics.get("val", {})
        try:
            again: Any = {"weights": "last", "plugins": subject.listed(), "trust": True}
            now = evaluate(Path(folder) / "run", split="val", **again)
            student = load_student(Path(folder) / "run", **again)
        except Exception as error:  # noqa: BLE001 - whatever the plugin raises is the finding
            yield Finding(
                f"a finished run does not load: {say_error(error)}",
                "build with assembly.batches None and perhaps no teacher: shapes come from assembly.links, values from the checkpoint",
            )
            return
    changed = differences(dict(trained.exported.state_dict()), dict(student.state_dict()))
    if changed:
        yield Finding(
            f"the loaded student is not the one that the training gave, in {_some(changed)}",
            "export takes what it needs from the plugin's module, and gives the same each time",
        )
    for name, value in now.metrics.get("val", {}).items():
        if name in then and then[name] == then[name] and then[name] != value:
            yield Finding(
                f"the loaded student's {name} is {value}, and was {then[name]}",
                "what the student answers has to be in its state, or folded away by export",
            )


def check_weight_zero(subject: Subject) -> Iterator[Finding | Note]:
    """Is a run with its weight at 0 that of the list without it, bit for bit?"""
    if "losses" not in subject.hooks:
        return
    more = [hook for hook in subject.hooks if hook in _CHANGES_MORE]
    if more or "links" in subject.cls.provides:
        yield Note(f"not asked: beside its terms it has {', '.join(more) or 'links'}")
        return
    if subject.plain is None:
        yield Note("not asked: the other plugins of the list cannot do without it")
        return
    off = subject.fit(subject.listed(weight=0.0))
    changed = differences(subject.plain.student, off.student)
    if changed:
        yield Finding(
            f"with weight = 0 the student ends elsewhere than without the plugin, in {_some(changed)}",
            "a hook writes to the student: leave it alone where the weight is 0",
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
