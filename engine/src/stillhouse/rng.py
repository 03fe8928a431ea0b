"""Random state: one seed for everything, derived seeds, and putting generators back."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

__all__ = ["capture", "derive", "preserved", "restore", "seed_everything"]


def derive(seed: int, *names: str | int) -> int:
    """A seed of its own (63 bits) for each path of names under ``seed``; adding a name changes no other's."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (every device), numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def capture() -> dict[str, Tensor]:
    """The state of every global generator, as tensors alone, so that a checkpoint of it loads with ``weights_only=True``."""
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
    """Put every generator back to what :func:`capture` saw; devices that are not here are passed over."""
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
def preserved() -> Iterator[None]:
    """Whatever happens inside, the global generators go on as if it had not."""
    state = capture()
    try:
        yield
    finally:
        restore(state)
