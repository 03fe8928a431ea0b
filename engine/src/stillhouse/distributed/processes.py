"""Several processes: joining and leaving, gathering a batch's rows with gradient, and checks that all run the same.

Started by torchrun, srun or anything else that sets torch's environment variables; ignite.distributed reads them. In a
single process every function here does nothing or returns its argument.
"""

from __future__ import annotations

import datetime
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import Tensor, nn

from stillhouse.errors import Fault, StillhouseError, raise_faults

__all__ = [
    "barrier",
    "broadcast_buffers",
    "check_same",
    "end",
    "gather",
    "in_first",
    "is_distributed",
    "is_first",
    "join",
    "leave",
    "mean_over_processes",
    "share",
]

_TIMEOUT = datetime.timedelta(minutes=10)
"""A process that waits this long for another one gives up; one that has died is noticed by torchrun at once."""

_LAST_WAIT = datetime.timedelta(seconds=10)
"""For the others to have ended as well."""


_joined = False
"""Whether :func:`join` found other processes. Plugins ask in every step, and torch's own answer takes microseconds."""


def is_distributed() -> bool:
    """Whether there is more than one process; known from :func:`join` on, with which every run begins."""
    return _joined


def is_first() -> bool:
    """Whether this is the process that writes: rank 0, or the only one."""
    return idist.get_rank() == 0


def count_launched() -> int:
    """Count the processes that were launched: torchrun's ``WORLD_SIZE``, else the tasks of srun's step.

    Not ``SLURM_NTASKS``, which a batch script has as well that starts one process by itself.
    """
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 1


def join(device: torch.device) -> torch.device:
    """Join the other processes, if there are any; NCCL between GPUs, gloo between CPUs.

    Args:
        device: the recipe's; ``cuda`` becomes this process's own GPU.

    Returns:
        This process's device.

    Raises:
        StillhouseError: the others cannot be reached, or the port is taken.
    """
    global _joined
    if count_launched() == 1 and not dist.is_initialized():
        return device
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            idist.initialize(backend, timeout=_TIMEOUT)
        except (RuntimeError, ValueError, KeyError) as error:
            raise _make_unreachable_error(error) from error
    _joined = dist.get_world_size() > 1
    idist.sync()  # where somebody else has initialised torch.distributed, ignite has yet to notice
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", idist.get_local_rank())
    return device


def _make_unreachable_error(error: Exception) -> StillhouseError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    port = os.environ.get("MASTER_PORT", "")
    taken = "EADDRINUSE" in str(error) or "address already in use" in str(error).lower()
    return StillhouseError(
        f"port {port} is in use" if taken else f"the processes cannot reach each other: {first}",
        where="torchrun",
        hint="torchrun --standalone, or another --master-port" if taken else "see MASTER_ADDR, MASTER_PORT, WORLD_SIZE",
    )


def leave(*, done: bool = False) -> None:
    """Leave the other processes.

    Args:
        done: all went well here, or all were told to stop and did. Then gloo's processes wait a moment for one another: one
            that tears its connections down while another still uses them can end that one.
    """
    global _joined
    _joined = False
    if dist.is_initialized():
        if done and dist.get_backend() == "gloo":
            with suppress(RuntimeError):  # the other one has failed, and says so itself
                dist.monitored_barrier(timeout=_LAST_WAIT)
        idist.finalize()


def end(code: int) -> NoReturn:
    """End this process as ``sys.exit`` does; one of several ends at once, with its output flushed.

    Threads of gloo outlive their process group. Now and then the interpreter's own end meets one and is aborted: exit
    code -6 of a process in which all went well, at which torchrun ends the others too.
    """
    if count_launched() == 1:
        sys.exit(code)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it has had enough, or it was closed
            stream.flush()
    os._exit(code)


def barrier() -> None:
    """Wait until every process is here."""
    if is_distributed():
        idist.barrier()


def in_first(do: Callable[[], object]) -> None:
    """Call ``do`` in the first process, while the others wait; they do not wait in vain where it fails.

    Raises:
        StillhouseError: ``do`` did, or OSError: in every process.
    """
    fault: Exception | None = None
    if is_first():
        try:
            do()
        except (StillhouseError, OSError) as error:
            fault = error
    found = broadcast_object(fault)
    if found is not None:
        raise fault or found


class _Gather(torch.autograd.Function):
    """Gathers rows of all processes, in order of rank; gradients of a process's rows are summed over all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def gather(x: Tensor) -> Tensor:
    """Gather the rows (B, ...) of all processes to one batch (W B, ...), in order of rank, with gradient.

    For statistics or singular values of the whole batch. Gradients of several processes are averaged, so a
    loss of gathered rows, which every process computes alike, has the gradient it would have in one process.
    """
    return _Gather.apply(x) if _joined else x  # asked in every step, so not by a call


def share(x: Tensor) -> Tensor:
    """Return this process's rows of a gathered batch: (W B, ...) -> (B, ...)."""
    if not is_distributed():
        return x
    size = x.shape[0] // dist.get_world_size()
    return x[dist.get_rank() * size : (dist.get_rank() + 1) * size]


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum ``x`` over all processes, on the device, without gradient."""
    if is_distributed():
        x = x.detach().clone()
        dist.all_reduce(x)
    return x


def mean_over_processes(x: Tensor) -> Tensor:
    """Average ``x`` over all processes, on the device, without gradient."""
    return sum_over_processes(x) / dist.get_world_size() if is_distributed() else x


def broadcast_buffers(module: nn.Module | None) -> None:
    """Broadcast the first process's buffers: running statistics of a BatchNorm differ between shares of a batch."""
    if is_distributed() and module is not None:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def gather_objects(value: Any) -> list[Any]:
    """Gather the ``value`` of every process, in order of rank; anything that can be pickled."""
    if not is_distributed():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def broadcast_object(value: Any) -> Any:
    """Return the first process's ``value``."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def check_same(facts: Mapping[str, Any]) -> None:
    """Refuse processes whose recipes or plugins differ.

    Args:
        facts: the things that must be equal, by name: the recipe, the plugins and their versions.

    Raises:
        StillhouseError: in every process, with the differences and their ranks.
    """
    everywhere = gather_objects(dict(facts))
    raise_faults(
        Fault(
            f"rank {rank}",
            f"{name} must be rank 0's, {_shorten(everywhere[0].get(name))}, got {_shorten(other.get(name))}",
            "start every process with the same recipe, options and installed plugins",
        )
        for rank, other in enumerate(everywhere[1:], start=1)
        for name in dict.fromkeys([*everywhere[0], *other])
        if other.get(name) != everywhere[0].get(name)
    )


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of ``parameters`` over all processes, for those that no wrapper averages."""
    average_tensors([parameter.grad for parameter in parameters if parameter.grad is not None])


def average_tensors(tensors: Sequence[Tensor]) -> None:
    """Make ``tensors``, of any shapes, their means over all processes, in place."""

    def exchange(flat: Tensor) -> None:
        dist.all_reduce(flat)
        flat /= dist.get_world_size()

    _exchange_at_once(tensors, exchange)


def copy_from_first(tensors: Sequence[Tensor]) -> None:
    """Make ``tensors``, of any shapes, what they are in the first process, in place."""
    _exchange_at_once(tensors, lambda flat: dist.broadcast(flat, 0))


def _exchange_at_once(tensors: Sequence[Tensor], exchange: Callable[[Tensor], object]) -> None:
    """Have one ``exchange`` for all tensors of a dtype: many small ones would cost many waits."""
    if not is_distributed():
        return
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        group = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        exchange(flat)
        for tensor, part in zip(group, torch.split(flat, [tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(part.view_as(tensor))
