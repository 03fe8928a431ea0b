"""Checks of the circumstances that a run may have: precision, parts of a batch, batch size, targets, layouts, a compiler."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from stillhouse.errors import StillhouseError
from stillhouse.loop.phases import Phase
from stillhouse.testing.checks.training import say_error
from stillhouse.testing.material import LAYOUTS, make_tables
from stillhouse.testing.report import Finding, Note
from stillhouse.testing.subject import Subject, is_finite

__all__ = [
    "check_accumulation",
    "check_bfloat16",
    "check_compilation",
    "check_layouts",
    "check_mixed_targets",
    "check_small_batches",
    "check_wider_teacher",
]

_REFUSE = "train, or refuse it in build by a StillhouseError that says what would be right"


def check_bfloat16(subject: Subject) -> Iterator[Finding | Note]:
    """Does it train under bfloat16 autocast, with losses in float32?"""
    changes = {"run": {"precision": "bfloat16"}}
    try:
        training = subject.prepare(changes=changes)
    except StillhouseError as error:
        yield Note(f"refused: {error.faults[0]}")
        return
    low: dict[str, torch.dtype] = {}

    def look(engine: Any) -> None:
        for name, value in engine.state.step.losses.items():
            if name.split("/")[0] == subject.name and value.dtype in (torch.bfloat16, torch.float16):
                low[name] = value.dtype

    training.run.trainer.add_event_handler(Phase.LOSSES_COMPUTED, look)
    yield from _finish(subject, training, "in bfloat16")
    for name, dtype in low.items():
        yield Finding(f"the term {name!r} is computed in {dtype}", "begin with .float(): features may come in bfloat16")


def check_accumulation(subject: Subject) -> Iterator[Finding | Note]:
    """Does it train where a batch goes through in parts?"""
    yield from _try(subject, {"run": {"accumulate": 2}}, "with accumulate = 2")


def check_small_batches(subject: Subject) -> Iterator[Finding | Note]:
    """Does it train with batches of two?"""
    yield from _try(subject, {"data": {"batch_size": 2}, "run": {"epochs": 1}}, "with batches of two")


def check_mixed_targets(subject: Subject) -> Iterator[Finding | Note]:
    """Does it train, or is it refused, where samples and their targets are mixed?"""
    task = subject.tables.get("task", {}).get("name", "classification")
    if task != "classification":
        yield Note(f"asked for classification alone, and the task is {task}")
        return
    yield from _try(subject, {"data": {"batch_transforms": [{"use": "MixUp"}]}}, "with MixUp")


def check_layouts(subject: Subject) -> Iterator[Finding | Note]:
    """Does it train, or is it refused in words, on vectors, tokens and maps?"""
    if not subject.own_models:
        yield Note("tried on the kit's own models alone")
        return
    for layout in LAYOUTS:
        tables = make_tables(layout)
        yield from _try(subject, {name: tables[name] for name in ("student", "teacher")}, f"on {layout}")


def check_wider_teacher(subject: Subject) -> Iterator[Finding | Note]:
    """Does it train, or is it refused in words, where the teacher's layers are wider?"""
    if not subject.own_models:
        yield Note("tried on the kit's own models alone")
        return
    yield from _try(subject, {"teacher": make_tables(teacher_width=6)["teacher"]}, "with a wider teacher")


def check_compilation(subject: Subject) -> Iterator[Finding | Note]:
    """Does it train with a compiled student?"""
    compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))
    backend = "inductor" if compiler else "aot_eager"
    if not compiler:
        yield Note("this machine has no C++ compiler: tried as a graph alone, by the backend aot_eager")
    speed = {"compile": "student", "compile_args": {"backend": backend}}
    yield from _try(subject, {"speed": speed, "data": {"drop_last": True}}, "with a compiled student")


def _try(subject: Subject, changes: Mapping[str, Mapping[str, Any]], when: str) -> Iterator[Finding | Note]:
    try:
        training = subject.prepare(changes=changes)
    except StillhouseError as error:
        yield Note(f"{when}: refused: {error.faults[0]}")
        return
    except Exception as error:  # noqa: BLE001 - whatever the plugin raises is the finding
        yield Finding(f"{when} it ends in {say_error(error)}", _REFUSE)
        return
    yield from _finish(subject, training, when)


def _finish(subject: Subject, training: Any, when: str) -> Iterator[Finding]:
    try:
        trained = subject.finish(training)
    except Exception as error:  # noqa: BLE001 - whatever the plugin raises is the finding
        yield Finding(f"{when} it begins, and ends in {say_error(error)}", _REFUSE)
        return
    if not is_finite(trained.state):
        yield Finding(f"{when} its run leaves weights that are not finite", _REFUSE)
