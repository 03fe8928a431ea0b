"""Readers that a signal of their whole group meets at their start."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import Tensor

from stillhouse.data import readers, streams


def signalled_first(number: int) -> None:
    """What a reader does at its start, after signals that the terminal sends to all processes."""
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGHUP)
    readers.prepare_reader(number)


def tell_mask(key: int) -> Tensor:
    """The key, and how many signals this reader holds back."""
    return torch.tensor([key, len(signal.pthread_sigmask(signal.SIG_BLOCK, []))])


def test_a_signal_before_a_reader_is_ready_does_not_end_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "prepare_reader", signalled_first)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    found = torch.stack(list(streams.map_in_workers(tell_mask, range(6), 2)))
    assert found[:, 0].tolist() == [*range(6)]
    assert found[:, 1].tolist() == [1] * 6  # SIGTERM, which a thread waits for
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
