"""Recipes, command lines and files that nobody meant, seeded; and what the program makes of each.

``python tests/support/fuzzing.py recipes SEED COUNT`` tries them in this process and prints what is neither a success
nor one message with exit code 2, as JSON; ``commands`` and ``files`` likewise.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

TESTS = Path(__file__).parents[1]
MEMORY = 12 * 2**30
"""Bytes of address space in a process of :func:`run_child`: a model of a billion channels fails, and not the machine."""

LONGEST = 20_000
"""Characters of a message."""

SECONDS = 60
"""Of computing: more for one try is a hang. Of waiting, on a busy machine, it may be ten times as many."""


@attrs.frozen
class Failure:
    """What went wrong with one try.

    Attributes:
        what: the try, for whoever wants it again.
        error: the exception, or ``hang``, ``silent exit``, ``exit code 3``.
        trace: where it came from.
    """

    what: str
    error: str
    trace: str = ""


class HangError(BaseException):
    """A try took too long."""


@contextmanager
def limited(seconds: int = SECONDS) -> Iterator[None]:
    """Raise :class:`HangError` in the main thread after ``seconds`` of computing, or ten times as many on the clock."""

    def ring(*_: Any) -> None:
        raise HangError

    timers = {signal.SIGALRM: (signal.ITIMER_REAL, 10 * seconds), signal.SIGPROF: (signal.ITIMER_PROF, seconds)}
    before = {number: signal.signal(number, ring) for number in timers}
    for timer, limit in timers.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def attempt(what: str, function: Callable[[], object]) -> Failure | None:
    """Call ``function``; None where it succeeds, or refuses as it should."""
    from stillhouse.errors import StillhouseError

    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function()
    except StillhouseError as error:
        if error.exit_code != 2 or not all(fault.what for fault in error.faults) or len(str(error)) > LONGEST:
            return Failure(what, f"says {error!r}")
    except HangError:
        return Failure(what, "hang", traceback.format_exc()[-1500:])
    except SystemExit as error:
        return Failure(what, f"silent exit {error.code!r}", traceback.format_exc()[-1500:])
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        return Failure(what, f"{type(error).__name__}: {error}"[:300], traceback.format_exc()[-1800:])
    return None


def run_child(kind: str, seed: int, count: int) -> tuple[int, list[Failure]]:
    """Try ``count`` of ``kind`` in a process of its own; how many were tried, and the failures."""
    import subprocess

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), "STILLHOUSE_TRUST": ""}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, __file__, kind, str(seed), str(count)],
            cwd=folder,
            env={**environment, "HOME": folder, "STILLHOUSE_CACHE": f"{folder}/cache"},
            capture_output=True,
            text=True,
            check=False,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"')]
    told = [json.loads(line) for line in lines]
    failures = [Failure(**line) for line in told if "error" in line]
    tried = next((line["tried"] for line in told if "tried" in line), 0)
    if done.returncode or tried != count:
        failures.append(Failure("the process", f"ended with {done.returncode} after {tried}", done.stderr[-3000:]))
    return tried, failures


def _main(words: Sequence[str]) -> None:
    import resource

    import torch

    kind, seed, count = words[0], int(words[1]), int(words[2])
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if kind == "recipes":
        from support.fuzzed_recipes import try_recipes as tried
    elif kind == "commands":
        from support.fuzzed_commands import try_commands as tried
    else:
        from support.fuzzed_files import try_files as tried
    number = 0
    for number, failure in enumerate(tried(seed, count), 1):
        if failure is not None:
            print(json.dumps(attrs.asdict(failure)), flush=True)
        if number % 200 == 0:
            print(f"{number} tried", file=sys.stderr, flush=True)
    print(json.dumps({"tried": number}))


if __name__ == "__main__":
    _main(sys.argv[1:])
