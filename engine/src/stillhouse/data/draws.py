"""Draws from the global generators while samples are made: found out by looking, then made to follow from each sample's seed.

To seed three generators takes longer than to read a small sample, and most data sets draw nothing. So a batch is made
without seeds at first. Where that moves a generator, its state is put back and the batch is made again, and from then on
that generator is seeded before each sample. Whoever draws nothing gets the same either way.
"""

from __future__ import annotations

import ctypes
import random
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from stillhouse.errors import StillhouseError

__all__ = ["Begin", "Draws"]

T = TypeVar("T")

_WORDS = 625
"""Of a Mersenne twister: 624 of its key, and the position in it."""

Begin = Callable[[int], None]
"""What is called with a row of the batch before its sample is made."""


class _Generator(Protocol):
    """A global generator. Each is a class, so that a worker's copy of :class:`Draws` names the same ones."""

    @staticmethod
    def snapshot() -> Any:
        """Return the state."""

    @staticmethod
    def has_moved(since: Any) -> bool:
        """Whether something was drawn since that snapshot."""

    @staticmethod
    def restore(to: Any) -> None:
        """Go back to that snapshot."""

    @staticmethod
    def seed(seed: int) -> None:
        """Seed with 64 bits."""


class _Torch:
    @staticmethod
    def snapshot() -> bytes:
        return torch.get_rng_state().numpy().tobytes()

    @staticmethod
    def has_moved(since: bytes) -> bool:
        return _Torch.snapshot() != since

    @staticmethod
    def restore(to: bytes) -> None:
        torch.set_rng_state(torch.frombuffer(bytearray(to), dtype=torch.uint8))

    @staticmethod
    def seed(seed: int) -> None:
        torch.default_generator.manual_seed(
            seed
        )  # torch.manual_seed looks after every device and costs 70 times as much


class _Python:
    """Python's generator.

    Its words are read from memory where they lie as they do in CPython: ``random.getstate`` makes 625 objects of them,
    which takes 30 times as long.
    """

    _own: Any = getattr(random.random, "__self__")  # noqa: B009 - of which mypy knows nothing
    _place = id(_own) + object.__basicsize__
    _words = struct.Struct("i624I")

    @staticmethod
    def snapshot() -> tuple[Any, float | None]:
        state = _Python._read() if _IS_READABLE else random.getstate()
        return state, _Python._own.gauss_next

    @staticmethod
    def _read() -> bytes:
        return ctypes.string_at(_Python._place, _WORDS * 4)

    @staticmethod
    def has_moved(since: Any) -> bool:
        return bool(_Python.snapshot() != since)

    @staticmethod
    def restore(to: Any) -> None:
        state, waits = to
        if isinstance(state, bytes):
            words = _Python._words.unpack(state)
            state = (_Python._own.VERSION, words[1:] + words[:1], waits)
        random.setstate(state)

    @staticmethod
    def seed(seed: int) -> None:
        _seed_python(seed)  # all that random.seed does with a whole number, in two thirds of the time
        _Python._own.gauss_next = None


_seed_python = super(random.Random, _Python._own).seed


class _Numpy:
    """numpy's legacy generator. Its words are read from memory: ``np.random.get_state`` takes 100 times as long.

    A normal number is drawn in pairs, and the second one waits beside the generator: it is asked for where something has
    been drawn since the last look.
    """

    _nothing_waits = b""

    @staticmethod
    def _find() -> int:
        """Find the words' address, which numpy tells for use from C."""
        generator = np.random.get_bit_generator()  # type: ignore[attr-defined]  # since numpy 1.24
        if type(generator) is not np.random.MT19937:
            raise StillhouseError(
                f"numpy's global generator must be MT19937, which can be seeded, got {type(generator).__name__}",
                where="np.random.set_bit_generator",
                hint="np.random.default_rng makes generators of other kinds for one's own use",
            )
        address: int = generator.ctypes.state_address
        return address

    @staticmethod
    def _read() -> bytes:
        return ctypes.string_at(_Numpy._find(), _WORDS * 4)

    @staticmethod
    def snapshot() -> tuple[bytes, int, float]:
        raw = _Numpy._read()
        if raw != _Numpy._nothing_waits:
            state: Any = np.random.get_state()
            if state[3]:
                return raw, *state[3:]
            _Numpy._nothing_waits = raw
        return raw, 0, 0.0

    @staticmethod
    def has_moved(since: tuple[bytes, int, float]) -> bool:
        raw, waits, _ = since
        if _Numpy._read() != raw:
            return True
        state: Any = np.random.get_state() if waits else None
        return state is not None and not state[3]

    @staticmethod
    def restore(to: tuple[bytes, int, float]) -> None:
        raw, *waiting = to
        if waiting[0]:
            *key, position = struct.unpack("624Ii", raw)
            np.random.set_state(("MT19937", key, position, *waiting))
            return
        np.random.seed(0)  # forgets a number that waits
        ctypes.memmove(_Numpy._find(), raw, len(raw))  # a thirtieth of set_state's time

    @staticmethod
    def seed(seed: int) -> None:
        np.random.seed(seed & 0xFFFFFFFF)


def _lies_as_in_cpython() -> bool:
    """Whether the memory of Python's generator is what :class:`_Python` takes it for."""
    if sys.implementation.name != "cpython" or type(_Python._own).__basicsize__ < object.__basicsize__ + _WORDS * 4:
        return False
    *key, position = random.getstate()[1]
    return _Python._words.unpack(_Python._read()) == (position, *key)


_IS_READABLE = _lies_as_in_cpython()

_GENERATORS: tuple[type[_Generator], ...] = (_Torch, _Numpy, _Python)


class Draws:
    """The global generators that making samples draws from, as far as is known; those are seeded, and no other.

    CUDA's are left alone: samples are made on the CPU.
    """

    def __init__(self) -> None:
        self._drawn: list[type[_Generator]] = []

    def make(self, seeds: Callable[[], Sequence[int]], make: Callable[[Begin | None], T]) -> T:
        """Call ``make``, again where it draws from a generator that was not known to be drawn from.

        Afterwards the generators are as they were.

        Args:
            seeds: returns the seed of each row; only called where something is drawn.
            make: makes a batch. It calls what it is given before each sample; None: there is nothing to call.
        """
        while True:
            before = [generator.snapshot() for generator in _GENERATORS]
            try:
                made = make(self._seed_from(seeds()) if self._drawn else None)
            except BaseException as error:
                if self._settle(before) and isinstance(error, Exception):
                    continue  # what was drawn may be to blame
                raise
            if not self._settle(before):
                return made

    def _seed_from(self, seeds: Sequence[int]) -> Begin:
        seeders = [generator.seed for generator in self._drawn]

        def begin(row: int) -> None:
            seed = seeds[row]
            for set_seed in seeders:
                set_seed(seed)

        return begin

    def _settle(self, before: Sequence[Any]) -> bool:
        """Put back what has moved; whether one of these was not known to be drawn from."""
        moved = []
        for generator, state in zip(_GENERATORS, before, strict=True):
            if generator.has_moved(state):
                generator.restore(state)
                moved.append(generator)
        new = [generator for generator in moved if generator not in self._drawn]
        self._drawn = [*self._drawn, *new]
        return bool(new)
