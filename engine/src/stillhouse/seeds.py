"""Random state: derived seeds, and saving and restoring the global generators."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["OwnRandomness", "capture", "derive", "mix", "mix_each", "preserve_state", "restore", "seed_everything"]


_MASK = (1 << 64) - 1


def mix(*parts: int) -> int:
    """Mix whole numbers into a 64-bit seed by SplitMix64 (Steele, Lea and Flood 2014): near inputs, unrelated outputs."""
    state = 0
    for part in parts:
        state = (state + (part & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def mix_each(*parts: int, ids: NDArray[np.int64], counts: NDArray[np.int64] | None = None) -> NDArray[np.uint64]:
    """Mix ``parts`` with each of ``ids`` (B,): ``mix(*parts, i)`` for each i, at once.

    With ``counts`` (n,) also with each of these: ``mix(*parts, i, k)``, (n, B).
    """
    state = _mix_in(np.uint64(mix(*parts)), ids)
    return state if counts is None else _mix_in(state, counts[:, None])


def _mix_in(state: Any, part: NDArray[np.int64]) -> NDArray[np.uint64]:
    state = state + part.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return mixed


class OwnRandomness:
    """Context in which torch's, numpy's and Python's global generators may be seeded; afterwards they are restored.

    Transforms draw from these generators and take no other. CUDA's are left alone: samples are made on the CPU.
    """

    def __enter__(self) -> OwnRandomness:
        self._torch = torch.get_rng_state()
        self._numpy = np.random.get_state()
        self._python = random.getstate()
        return self

    def seed(self, seed: int) -> None:
        """Seed all three generators from a 64-bit ``seed``."""
        # Not torch.manual_seed, which looks after every device and costs 70 times as much.
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        random.seed(seed)

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self._torch)
        np.random.set_state(self._numpy)
        random.setstate(self._python)


def derive(seed: int, *names: str | int) -> int:
    """Derive a seed (63 bits) of its own for each path of names under ``seed``; adding a name changes no other's."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (every device), numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def capture() -> dict[str, Tensor]:
    """Return the state of every global generator as tensors, so that a checkpoint of it loads with ``weights_only=True``."""
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "numpy_position": torch.tensor([position, has_gauss]),
        "numpy_cached": torch.tensor(cached, dtype=torch.float64),
        "python": torch.tensor([version, *internal], dtype=torch.int64),
        "python_gauss": torch.tensor(
            [gauss_next is not None, gauss_next if gauss_next is not None else 0.0], dtype=torch.float64
        ),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch gives it no types
        for index in range(torch.cuda.device_count()):
            state[f"cuda{index}"] = torch.cuda.get_rng_state(index)
    return state


def restore(state: Mapping[str, Tensor]) -> None:
    """Restore every generator to the state that :func:`capture` returned; devices that are not here are skipped."""
    torch.set_rng_state(state["torch"].cpu())
    position, has_gauss = state["numpy_position"].tolist()
    keys = state["numpy"].cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, state["numpy_cached"].item()))
    version, *internal = state["python"].tolist()
    has, gauss = state["python_gauss"].tolist()
    random.setstate((version, tuple(internal), gauss if has else None))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda{index}" in state:
                torch.cuda.set_rng_state(state[f"cuda{index}"].cpu(), index)


@contextmanager
def preserve_state() -> Iterator[None]:
    """Restore the global generators at the context's end."""
    state = capture()
    try:
        yield
    finally:
        restore(state)
