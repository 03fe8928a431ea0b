"""What several runs of one process may share: data that was read already, the list of installed plugins.

Outside of :func:`share_memo` nothing is kept: a run by itself finds the world as it is now.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

__all__ = ["remember", "share_memo"]

T = TypeVar("T")

_shelf: dict[Hashable, Any] | None = None


@contextmanager
def share_memo() -> Iterator[None]:
    """While this lasts, :func:`remember` remembers what it made; within another one, that one's memory is used."""
    global _shelf
    before = _shelf
    if before is None:
        _shelf = {}
    try:
        yield
    finally:
        _shelf = before


def remember(key: Callable[[], Hashable], make: Callable[[], T], among: int = 1) -> T:
    """What ``make()`` gives; inside :func:`share_memo` made once for each key.

    Args:
        key: gives the key; only called inside :func:`share_memo`. It must name all that ``make`` follows from, and is a
            name or a tuple that begins with one. A key of None keeps nothing.
        make: makes the value. Nobody may change a kept value afterwards.
        among: so many values of one name are kept, those used last.
    """
    if _shelf is None:
        return make()
    known = key()
    if known is None:
        return make()
    value = _shelf.pop(known) if known in _shelf else make()
    _shelf[known] = value  # at the end: those used last
    alike = [other for other in _shelf if _name(other) == _name(known)]
    for other in alike[:-among]:
        del _shelf[other]
    return cast("T", value)


def _name(key: Hashable) -> Hashable:
    return key[0] if isinstance(key, tuple) else key
