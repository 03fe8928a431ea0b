"""Verification of an export: the file is read again and its outputs are compared with the student's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stillhouse.errors import StillhouseError
from stillhouse.nested import list_tensors
from stillhouse.students.formats import read_onnx, read_torch
from stillhouse.students.modules import Output
from stillhouse.students.reconstruction import rebuild_student
from stillhouse.students.saved_run import SavedRun

__all__ = ["compare_outputs", "compute_output", "read_export"]


def compute_output(reference: nn.Module, inputs: Tensor) -> Any:
    """The student's own output; the way to read it is settled by this first call."""
    with torch.no_grad():
        wanted = reference(inputs)
    if any(t.is_floating_point() and not bool(torch.isfinite(t).all()) for t in list_tensors(wanted)):
        raise StillhouseError("the student's output must be finite on real inputs", hint="take other --weights")
    return wanted


def read_export(
    form: str, path: Path, module: nn.Module, metadata: dict[str, Any], saved: SavedRun
) -> Callable[[Tensor], Any]:
    """Read the file as a function of inputs, from the file alone where that is possible."""
    if form == "torch":
        return read_torch(path)
    if form == "onnx":
        return read_onnx(path)
    from safetensors.torch import load_file

    if metadata["model"] is not None:
        again = rebuild_student(path, own_code=True, base=saved.recipe.base)
    else:
        again = copy.deepcopy(module)
        with torch.no_grad():  # nothing of the copy's own weights may stay
            for tensor in again.state_dict().values():
                tensor.zero_()
        again.load_state_dict(load_file(path))
    read = Output(again, saved.task)

    def function(x: Tensor) -> Any:
        with torch.no_grad():
            return read(x)

    return function


def compare_outputs(
    form: str,
    again: Callable[[Tensor], Any],
    fed: Tensor,
    reference: nn.Module,
    inputs: Tensor,
    counts: Sequence[int],
    share: float,
) -> tuple[float, float]:
    """Compare outputs on batches of several sizes; returns difference and tolerance of the output that is worst.

    Raises:
        StillhouseError: they differ by more than that, or in shape, or the file cannot be run.
    """
    differences: dict[int, list[float]] = {0: [0.0]}
    scales: dict[int, float] = {0: 0.0}
    for count in counts:
        with torch.no_grad():
            wanted = list_tensors(reference(inputs[:count]))
        try:
            found = list_tensors(again(fed[:count]))
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StillhouseError(
                f"the file does not run on a batch of {count}: {first}; nothing was written",
                where="student",
                hint=f"--batch {len(fed)} fixes the number of samples",
            ) from error
        shapes = [[tuple(t.shape) for t in side] for side in (wanted, found)]
        if shapes[0] != shapes[1]:
            raise StillhouseError(
                f"the file's outputs must have the student's shapes {shapes[0]}, got {shapes[1]}; nothing was written",
                where="student",
            )
        for index, (mine, theirs) in enumerate(zip(wanted, found, strict=True)):
            # A program's outputs are measured each by itself; a list of boxes has another number for each batch.
            of = 0 if form == "safetensors" else index
            if mine.numel():
                differences.setdefault(of, []).append(float((mine.double() - theirs.double()).abs().max()))
                scales[of] = max(scales.get(of, 0.0), float(mine.double().abs().max()))
    # NaN stays NaN, which max() may pass over
    found_of = {of: (float(np.max(values)), share * scales[of]) for of, values in differences.items()}
    worst, tolerance = max(found_of.values(), key=lambda pair: pair[0] - pair[1] if pair[0] <= pair[1] else np.inf)
    if not worst <= tolerance:
        raise StillhouseError(
            f"the file's output must be within {tolerance:.3g} of the student's, got a difference of {worst:.3g}; "
            "nothing was written",
            where="student",
            hint="so differs a model that draws random numbers in eval mode, or keeps a state between calls",
        )
    return worst, tolerance
