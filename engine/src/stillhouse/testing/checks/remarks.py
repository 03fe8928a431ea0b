"""The check of what the engine says beside its errors, which a run of the kit would swallow."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

from stillhouse.contract.plugin import Plugin
from stillhouse.errors import StillhouseError, StillhouseWarning, UnknownKindWarning, first_line
from stillhouse.testing.report import Finding, Note
from stillhouse.testing.subject import Subject

__all__ = ["check_remarks"]


def check_remarks(subject: Subject) -> Iterator[Finding | Note]:
    """Has the engine nothing to remark on it: a kind that is misspelt, a term that is never there?"""
    without = {text for _, text in _hear(subject, subject.without())[0]}
    heard, notes = _hear(subject, subject.listed())
    for category, text in heard:
        if issubclass(category, UnknownKindWarning) and repr(subject.name) in text:
            yield Finding(text, "name in before, after and conflicts what is installed: `stillhouse plugins` lists it")
        elif text not in without:
            yield Note(text)
    yield from map(Note, notes)


def _hear(subject: Subject, plugins: list[Plugin]) -> tuple[list[tuple[type[Warning], str]], list[str]]:
    """The engine's warnings in a run of ``plugins``, and what its walk notes of the plugin; none where it cannot be."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            training = subject.prepare(plugins)
        except StillhouseError:
            return [], []
        subject.finish(training)
    heard = [(w.category, first_line(str(w.message))) for w in seen if issubclass(w.category, StillhouseWarning)]
    return list(dict.fromkeys(heard)), list(dict.fromkeys(training.assembly.notes.get(subject.name, [])))
