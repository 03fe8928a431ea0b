"""The processes that read samples ahead: quiet when the run is interrupted, and named when the system has killed one."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterable
from types import TracebackType

from stillhouse.config.data import DataSpec
from stillhouse.distributed.signals import stay_until_the_parent_ends
from stillhouse.errors import StillhouseError

__all__ = ["explain_dead_reader", "prepare_reader"]


def prepare_reader(_number: int) -> None:
    """Prepare a new reader: the terminal and a scheduler signal it as well, and the run is to decide what then."""
    stay_until_the_parent_ends()
    sys.excepthook = _say_unless_hung_up


def _say_unless_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error as ever, but for one of the thread that hands tensors over: an interrupted run has hung up on it."""
    hung_up = issubclass(kind, ConnectionError | EOFError) and threading.current_thread() is not threading.main_thread()
    if not hung_up:
        sys.__excepthook__(kind, error, trace)


def explain_dead_reader(
    error: BaseException, spec: DataSpec | None = None, codes: Iterable[int | None] = ()
) -> StillhouseError | None:
    """The message for torch's error that a reader is gone; None for any other error.

    Args:
        error: what was raised; torch raises it wherever the run just is.
        spec: the recipe's ``[data]``, for the numbers to lower.
        codes: the readers' exit codes, None for one that lives: torch names a signal only where it was told of it.
    """
    text = str(error)
    if not isinstance(error, RuntimeError) or not re.search(r"DataLoader worker \(pid\(?s?\)? ", text):
        return None
    ended = next((code for code in codes if code), 0)
    by = re.search(r"killed by signal: (.+?)\.", text)
    name = by[1] if by else signal.strsignal(-ended) if ended < 0 else ""
    with_code = f"ended with exit code {ended}" if ended else "has ended"
    what = f"was ended by a signal ({name})" if name else with_code
    if name in ("", signal.strsignal(signal.SIGKILL)):
        what += ", as the system ends one where memory runs out"
    ways = "fewer workers, data.prefetch or batch_size take less memory"
    if spec is not None:
        ways = f"lower workers = {spec.workers}, prefetch = {spec.prefetch} or batch_size = {spec.batch_size}"
    return StillhouseError(
        f"a process that reads the data {what}",
        where="data.workers",
        hint=f"{ways}; workers = 0 reads in the run's own process, and shows what goes wrong there",
    )
