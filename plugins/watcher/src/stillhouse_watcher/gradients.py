"""The loss terms' own gradients on the student, each by a backward pass that leaves ``.grad`` and the graph alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["find_parameters", "keeping_buffers", "measure_gradients"]

_LEAST = 1e-30


def find_parameters(student: nn.Module) -> list[nn.Parameter]:
    """The student's trained parameters; none where they are spread over processes, whose gradients cannot be asked for."""
    parameters = [p for p in student.parameters() if p.requires_grad]
    spread = any(hasattr(p, "device_mesh") for p in parameters)  # DTensor's, without its import
    return [] if spread else parameters


def measure_gradients(
    losses: Mapping[str, Tensor], weights: Mapping[str, float], parameters: Sequence[nn.Parameter]
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Yield each term's name, the norm of its weighted gradient on ``parameters``, and its cosine to the task's.

    A term that reaches none of them has norm 0 and cosine 0; the task's own cosine is None. Two gradients are in memory at
    a time. A term is done when it is yielded, so that whoever asks can measure how long each takes.

    Args:
        losses: scalars with their graphs, which are kept; ``task`` first.
        weights: the factor of each.
        parameters: the student's.

    Raises:
        RuntimeError: the graph cannot be gone through by ``torch.autograd.grad``, or not twice.
    """
    task: list[Tensor] | None = None
    length = None
    for name, value in losses.items():
        own: list[Tensor] = []
        if value.requires_grad:
            found = torch.autograd.grad(value, list(parameters), retain_graph=True, allow_unused=True)
            own = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
        norm = torch.nn.utils.get_total_norm(own) if own else value.new_zeros(())
        if name == "task":
            task, length = own, norm
            yield name, norm * weights[name], None
            continue
        cosine = value.new_zeros(())
        if own and task and length is not None:
            product = torch.stack([(a * b).sum() for a, b in zip(own, task, strict=True)]).sum()
            cosine = product / (norm * length).clamp_min(_LEAST)
        yield name, norm * weights[name], cosine


@contextmanager
def keeping_buffers(student: nn.Module) -> Iterator[None]:
    """Have the student's buffers afterwards as before: what is recomputed for a backward pass counts a batch once more."""
    before = [(buffer, buffer.clone()) for buffer in student.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)  # which counts as no write: BatchNorm keeps its statistics for its backward pass
