"""The check that a step never waits for the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from stillhouse.testing.reads import watch_reads
from stillhouse.testing.report import Finding
from stillhouse.testing.subject import Subject

__all__ = ["check_waiting"]


def check_waiting(subject: Subject) -> Iterator[Finding]:
    """Does no hook of a step read a tensor's value?"""
    training = subject.prepare()
    trainer = training.run.trainer
    process = trainer._process_function
    seen: dict[str, str] = {}

    def report(what: str, tensor: Tensor | None) -> None:
        step = getattr(trainer.state, "step", None)
        if tensor is not None and step is not None and _shares(tensor, step.ids):
            return  # ids are on the host on any machine
        place = subject.author.find(innermost=True)
        if place:
            seen.setdefault(place, what)

    def watched(engine: Any, batch: Any) -> Any:
        with watch_reads(report):
            return process(engine, batch)

    trainer._process_function = watched
    subject.finish(training)
    for place, what in seen.items():
        yield Finding(
            f"{place} reads a tensor's value, by {what}: the host waits for the device in every step",
            "stay on the device: choose by shapes, torch.where and masks as factors; scalars may return tensors",
        )


def _shares(one: Tensor, other: Tensor) -> bool:
    try:
        return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # a tensor without a storage of its own
        return False
