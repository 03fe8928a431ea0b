"""Streams of batches: made in this process or ahead of time by workers, optionally in page-locked memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

import attrs
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from stillhouse.contract.batch import Batch
from stillhouse.data.readers import explain_dead_reader, prepare_reader
from stillhouse.data.sampler import Key
from stillhouse.data.samples import Samples
from stillhouse.distributed.signals import hold_while_starting
from stillhouse.errors import StillhouseError
from stillhouse.nested import map_tensors

__all__ = ["map_in_workers", "pin_batches", "stream"]

T = TypeVar("T")


def stream(samples: Samples, keys: Iterable[Key], workers: int, pin: bool, prefetch: int = 2) -> Generator[Batch]:
    """Stream the batches of ``keys``, made here (0 workers) or ahead of time in ``workers`` processes, one thread each.

    The global random generators are not touched. Workers live as long as the generator.

    Args:
        samples: makes a batch of a key.
        keys: the batches, in order; may have no end.
        workers: processes; none are started where a batch is only looked up.
        pin: put batches into page-locked memory, for copies to CUDA.
        prefetch: batches that each worker makes ahead.

    Raises:
        StillhouseError: a sample cannot be read or augmented, here or in a worker.
    """
    made = map_in_workers(samples.batch, keys, 0 if samples.direct else workers, prefetch)
    yield from pin_batches(made) if pin else made


def pin_batches(made: Iterable[Batch]) -> Generator[Batch]:
    """Put batches into page-locked memory."""
    for batch in made:
        yield map_tensors(Tensor.pin_memory, batch)


def map_in_workers(make: Callable[[Key], T], keys: Iterable[Key], workers: int, prefetch: int = 2) -> Generator[T]:
    """Yield ``make(key)`` for each of ``keys``, in order, made here or ahead of time in ``workers`` processes.

    Raises:
        StillhouseError: ``make`` did, here or in a worker, with all its faults.
    """
    if workers == 0:
        yield from map(make, keys)
        return
    loader: DataLoader[Any] = DataLoader(
        _ErrorAsValue(make),  # type: ignore[arg-type]  # any object with __getitem__ serves
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        prefetch_factor=prefetch,
        collate_fn=_pass_on,
        worker_init_fn=prepare_reader,
        generator=torch.Generator(),  # its own: without one, DataLoader draws a seed from the global generator
    )
    with hold_while_starting():
        made = iter(loader)
    try:
        while (item := _next_of(made)) is not _END:
            if isinstance(item, StillhouseError):
                raise item
            yield map_tensors(_restore_tensor, item, _ByValue)
    finally:
        del made  # its workers live as long as it does, and an error's traceback would keep it


_END = object()


def _next_of(made: Iterator[Any]) -> Any:
    try:
        return next(made, _END)
    except RuntimeError as error:
        found = explain_dead_reader(error, codes=[reader.exitcode for reader in getattr(made, "_workers", ())])
        if found is None:
            raise
        text = str(error)
    del made  # as torch's own error does, whose traceback has it: while anybody keeps that, the other readers live
    raise found from RuntimeError(text)


@attrs.frozen(eq=False)
class _ErrorAsValue:
    """Returns an error as a value: DataLoader would re-raise it with its text alone, and lose the faults."""

    make: Callable[[Key], Any]

    def __getitem__(self, key: Key) -> Any:
        try:
            made = self.make(key)
        except StillhouseError as error:
            return error
        return type(made)(*map(_copy_tensors, made)) if hasattr(made, "_fields") else made


@attrs.frozen(eq=False)
class _ByValue:
    array: NDArray[Any]


def _copy_tensors(part: Any) -> Any:
    """Copy a list's tensors: each one in shared memory keeps a file open, and a batch of boxes has hundreds."""
    return map_tensors(lambda x: _ByValue(x.numpy()), part) if isinstance(part, list) else part


def _restore_tensor(sent: _ByValue) -> Tensor:
    return torch.from_numpy(sent.array)


def _pass_on(made: Any) -> Any:
    return made
