"""Signals that end a process: a scheduler's SIGTERM, the SIGHUP of a terminal that is gone.

Where :func:`raising` is on, they raise :class:`Terminated`, as Ctrl-C raises KeyboardInterrupt; who has something to put in
order first asks for it with :func:`defer`. A second signal, after a second, is not put off.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "defer", "hold_while_starting", "raising", "stay_until_the_parent_ends"]

_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP
_OF_A_GROUP = [getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]
"""What a terminal sends to all of its processes."""


class Terminated(BaseException):
    """A signal has ended what was going on.

    Args:
        number: the signal's.
        kept: what was put in order, in a few words.

    Attributes:
        exit_code: what a shell expects of a process that a signal has ended: 128 and its number.
    """

    def __init__(self, number: int, kept: str = "") -> None:
        self.number, self.kept = number, kept
        self.exit_code = 128 + number
        super().__init__(f"ended by {signal.Signals(number).name}" + (f": {kept}" if kept else ""))


_SAME = 1.0
"""Seconds within which a second signal is the first one's echo: a scheduler signals a group, and then a parent its own."""

_heard_at = -math.inf

_listeners: list[Callable[[int], None]] = []
"""Who has asked for the signal, the innermost last."""


@contextmanager
def raising() -> Iterator[None]:
    """Context in which signals that end a process raise :class:`Terminated`; one that is ignored, as by nohup, stays ignored.

    Anywhere but in the main thread it does nothing.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, _hear)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hear(number: int, _frame: FrameType | None) -> None:
    global _heard_at
    if _listeners:
        _heard_at = time.monotonic()
        _listeners.pop()(number)  # no longer in the way of a second one
    elif time.monotonic() - _heard_at > _SAME:
        raise Terminated(number)


def defer(listener: Callable[[int], None]) -> Callable[[], None]:
    """Have ``listener`` called with the next signal's number in place of the error; it is to raise that later.

    Returns:
        A function that takes it back.
    """
    _listeners.append(listener)

    def undo() -> None:
        if listener in _listeners:
            _listeners.remove(listener)

    return undo


@contextmanager
def hold_while_starting() -> Iterator[None]:
    """Hold back signals of a whole group while this process starts others that are to leave them to it.

    Each of them holds them back from its first moment on, and :func:`stay_until_the_parent_ends` then lets them go: one that came
    before would end it with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*_OF_A_GROUP, signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stay_until_the_parent_ends() -> None:
    """Leave signals that a whole group of processes gets to the parent: this process ends when the parent tells it to.

    For a process that works for another one, and has just been started by it, in :func:`hold_while_starting`. A SIGTERM of the
    parent's own ends it; where the system does not tell who sent one, so does any.
    """
    for number in _OF_A_GROUP:
        signal.signal(number, signal.SIG_IGN)
    heard = hasattr(signal, "sigwaitinfo")
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*_OF_A_GROUP, *([] if heard else [signal.SIGTERM])])
    if heard:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # for this thread and those that it starts
        threading.Thread(target=_wait_for_the_parent, args=(os.getppid(),), daemon=True).start()


def _wait_for_the_parent(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
