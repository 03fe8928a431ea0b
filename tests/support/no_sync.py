"""A guard that raises where a tensor becomes a Python number, list, array or condition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stillhouse.testing.reads import watch_reads


class SynchronisedError(AssertionError):
    """The step read a tensor's value."""


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Raise :class:`SynchronisedError` where a tensor's value is read."""

    def refuse(what: str, _tensor: Any) -> None:
        raise SynchronisedError(what)

    with watch_reads(refuse):
        yield
