"""The check of versions: what a plugin was made for, and the names that it uses and that will go."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

from stillhouse.contract import VERSION
from stillhouse.errors import DeprecatedNameWarning, first_line
from stillhouse.testing.report import Finding, Note
from stillhouse.testing.subject import Subject

__all__ = ["check_versions"]

_GOING = (DeprecatedNameWarning, DeprecationWarning, FutureWarning, PendingDeprecationWarning)


def check_versions(subject: Subject) -> Iterator[Finding | Note]:
    """Does it use no name that is deprecated, here or in a library, and say which contract it is made for?"""
    if not subject.cls.engine:
        yield Note(f'it does not say which contract it is made for: engine = ">={VERSION},<{VERSION + 1}"')
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        subject.fit()
    uses = [w for w in seen if issubclass(w.category, _GOING) and subject.author.wrote(w.filename)]
    for text in dict.fromkeys(
        f"{w.filename.rpartition('/')[2]}:{w.lineno}: {first_line(str(w.message))}" for w in uses
    ):
        yield Finding(f"uses a deprecated name, {text}", "write what the message names; it is gone in a later release")
