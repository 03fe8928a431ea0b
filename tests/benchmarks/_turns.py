"""Training loops that take turns in one process, whoever owns the loop: each in its thread, one running at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from stillhouse_experiments.timing import stay_on_one_core, steady_allocator

__all__ = ["Side", "take_turns"]


class _StopError(Exception):
    """The loop of a side ends."""


class Side:
    """A training loop that draws its batches from :meth:`stream`, so that it waits where it is not its turn.

    Args:
        name: for the table.
        loop: trains, given this side, until its stream ends.
        batch: what the stream gives, again and again: loading is no part of what is timed.

    Attributes:
        losses: of the first steps, which the loop notes by :meth:`note`.
        seconds: of processor time by turn, a step's.
        error: what the loop failed with.
    """

    NOTED = 5

    def __init__(self, name: str, loop: Callable[[Side], None], batch: Any) -> None:
        self.name, self.batch = name, batch
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.error: BaseException | None = None
        self._steps = 0
        steady_allocator()
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._ends = False
        self._thread = threading.Thread(target=self._run, args=(loop,), daemon=True)
        self._thread.start()

    def _run(self, loop: Callable[[Side], None]) -> None:
        torch.set_num_threads(1)  # the number is a thread's own
        stay_on_one_core()
        try:
            loop(self)
        except _StopError:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever it is, the main thread tells
            self.error = error
        finally:
            self._done.release()

    def stream(self) -> Iterator[Any]:
        """The batch, as often as there are turns."""
        self._go.acquire()
        while not self._ends:
            for _ in range(self._steps):
                yield self.batch
            self._done.release()
            self._go.acquire()
        raise _StopError

    def note(self, loss: Any) -> None:
        """Keep the total loss of one of the first steps."""
        if len(self.losses) < self.NOTED:
            self.losses.append(float(loss.detach()))

    def turn(self, steps: int) -> None:
        """Let the loop take ``steps`` steps, and time them."""
        self._steps = steps
        start = time.process_time()
        self._go.release()
        self._done.acquire()
        self.seconds.append((time.process_time() - start) / steps)
        if self.error is not None:
            raise RuntimeError(f"{self.name} failed") from self.error

    def end(self) -> None:
        """End the loop."""
        self._ends = True
        self._go.release()
        self._thread.join(timeout=10)


def take_turns(sides: Sequence[Side], turns: int, steps: int, tolerance: float = 1e-5) -> dict[str, list[float]]:
    """Seconds a step, by side and turn, the sides interleaved; first it is asserted that all have the same losses.

    Raises:
        AssertionError: a side's losses differ from the first one's by more than ``tolerance``, relatively.
    """
    for side in sides:
        side.turn(Side.NOTED + 1)
        side.seconds.clear()
    wanted = sides[0].losses
    for side in sides:
        assert len(side.losses) == Side.NOTED, (side.name, side.losses)
        worst = max(abs(a - b) / abs(b) for a, b in zip(side.losses, wanted, strict=True))
        assert worst <= tolerance, f"{side.name}: losses {side.losses}, and {sides[0].name} has {wanted}"
    for _ in range(turns):
        for side in sides:
            side.turn(steps)
    for side in sides:
        side.end()
    return {side.name: side.seconds for side in sides}
