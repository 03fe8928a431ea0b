"""Memo of values that several runs of one process share: data that was read.

Outside of :func:`share_memo` nothing is kept, so that a single run always sees the present state.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

__all__ = ["remember", "share_memo"]

T = TypeVar("T")

_shelf: ContextVar[dict[Hashable, Any] | None] = ContextVar("stillhouse_memo", default=None)
"""Each thread has its own: runs that are prepared side by side begin and end as they like."""


@contextmanager
def share_memo() -> Iterator[None]:
    """Context in which :func:`remember` keeps its values; an inner one uses the outer one's memory."""
    token = _shelf.set({}) if _shelf.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _shelf.reset(token)


def remember(key: Callable[[], Hashable], make: Callable[[], T], among: int = 1) -> T:
    """Return ``make()``; inside :func:`share_memo` it is called once for each key.

    Args:
        key: returns the key; only called inside :func:`share_memo`. It must name everything that ``make`` depends on, and is a
            name or a tuple that begins with one. A key of None keeps nothing.
        make: makes the value, which must not be changed afterwards.
        among: the number of values of one name to keep, those used last.
    """
    shelf = _shelf.get()
    if shelf is None:
        return make()
    known = key()
    if known is None:
        return make()
    value = shelf.pop(known) if known in shelf else make()
    shelf[known] = value  # at the end: those used last
    alike = [other for other in shelf if _name(other) == _name(known)]
    for other in alike[:-among]:
        del shelf[other]
    return cast("T", value)


def _name(key: Hashable) -> Hashable:
    return key[0] if isinstance(key, tuple) else key
