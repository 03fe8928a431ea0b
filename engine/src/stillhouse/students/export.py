"""Export of a run's student: as weights, as a torch program or as ONNX, verified before the file is put in place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from stillhouse.contract.plugin import Plugin
from stillhouse.errors import StillhouseError
from stillhouse.nested import tensors_of
from stillhouse.students.data import MeasuredData, open_data
from stillhouse.students.formats import (
    FORMATS,
    TOLERANCES,
    check_installed,
    read_onnx,
    read_torch,
    write_format,
)
from stillhouse.students.loader import folded_student
from stillhouse.students.metadata import metadata_of
from stillhouse.students.modules import Output, Preprocessing
from stillhouse.students.saved_run import Weights, open_run
from stillhouse.students.verification import compare_outputs, compute_output, read_export

__all__ = ["Exported", "export"]

_SAMPLES = 8


@attrs.frozen
class Exported:
    """The result of :func:`export`.

    Attributes:
        path: the file.
        format: ``safetensors``, ``torch`` or ``onnx``.
        weights: ``best`` or ``last``.
        step: the number of optimizer steps of these weights.
        batch: the number of samples that it takes; 0: any.
        samples: the number of real inputs it was checked on.
        split: the split they come from.
        difference: the greatest absolute difference from the student's output on them.
        tolerance: the greatest difference that is allowed.
        metadata: the file's own metadata.
    """

    path: Path
    format: str
    weights: str
    step: int
    batch: int
    samples: int
    split: str
    difference: float
    tolerance: float
    metadata: dict[str, Any]


def export(
    run: str | Path,
    to: str | Path,
    *,
    format: Literal["safetensors", "torch", "onnx"] | None = None,  # noqa: A002 - the command's own word for it
    weights: Weights | None = None,
    averaged: bool = False,
    batch: int | None = None,
    with_preprocessing: bool = False,
    force: bool = False,
    fold_plugins: bool = True,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    plugins: Sequence[Plugin] | None = None,
) -> Exported:
    """Write a run's student to a file, as the plugins' ``export`` leaves it, and check the file on real inputs.

    Args:
        run: the run's folder.
        to: the file.
        format: None: by the file's suffix, .safetensors, .pt2 or .onnx.
        weights: ``best`` or ``last``; None: the best where the run has kept them, else the last.
        averaged: the averaged weights of a run with ``[ema]``, whatever it measured itself.
        batch: the number of samples that the program takes; None: any.
        with_preprocessing: the program takes inputs of 0 to 1 and normalises them itself.
        force: write over a file that exists.
        fold_plugins: False leaves the plugins out: the student alone, as it was trained.
        student: see :func:`stillhouse.load_student`, as for the next two.
        teacher: likewise.
        plugins: likewise.

    Raises:
        StillhouseError: no run, no such format, an existing file, a model that this format cannot hold, or one whose
            output differs there; then no file is left.
    """
    path, form, temporary = _check_target(Path(to), format, force)
    if form == "safetensors" and (with_preprocessing or batch is not None):
        raise StillhouseError(
            "needs a program, and safetensors holds weights alone",
            where="--with-preprocessing" if with_preprocessing else "--batch",
            hint="leave it out, or write .pt2 or .onnx",
        )
    if batch is not None and batch < 1:
        raise StillhouseError(f"must be >= 1 or dynamic, got {batch}", where="--batch")
    check_installed(form)
    size = [f"data.eval_batch_size={max(batch or 1, _SAMPLES)}"]
    saved = open_run(run, weights=weights, averaged=averaged, overrides=size)
    data = open_data(saved)
    try:
        module = fold_student(
            saved, data=data, student=student, teacher=teacher, plugins=plugins, fold_plugins=fold_plugins
        )
        split, inputs = _take_inputs(data, batch)
    finally:
        data.close()
    program = None if form == "safetensors" else saved.task.program(module, inputs)
    reference = Output(module, saved.task) if program is None else program.module
    about = {} if program is None else program.about
    metadata = describe_export(saved, module, preprocessing=with_preprocessing, batch=batch, about=about)
    wanted = compute_output(reference, inputs)
    if form != "safetensors" and program is None and not isinstance(wanted, Tensor):
        raise StillhouseError(
            f"{FORMATS[form]} needs a student whose output is one tensor, got {type(wanted).__name__}",
            where="student",
            hint="take .safetensors, which holds the weights of any model, or give the task a `program`",
        )
    model: nn.Module = reference
    fed = inputs
    if with_preprocessing and saved.info.mean:
        model = Preprocessing(reference, saved.info.mean, saved.info.std, inputs.ndim)
        fed = model.undo(inputs)
    outputs = ("output",) if program is None else program.outputs
    try:
        write_format(form, model, module, fed, batch is None, metadata, temporary, outputs)
        again = read_export(form, temporary, module, metadata, saved)
        counts = [len(fed)] if batch is not None else sorted({len(fed), 1, max(1, len(fed) - 1)}, reverse=True)
        share = TOLERANCES[form] if program is None else program.tolerance
        difference, tolerance = compare_outputs(form, again, fed, reference, inputs, counts, share)
        try:
            temporary.replace(path)
        except OSError as error:
            raise StillhouseError(f"cannot be written: {error}", where=str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return Exported(
        path=path,
        format=form,
        weights=saved.weights,
        step=saved.step,
        batch=batch or 0,
        samples=len(inputs),
        split=split,
        difference=difference,
        tolerance=tolerance,
        metadata=metadata,
    )


def _check_target(path: Path, form: str | None, force: bool) -> tuple[Path, str, Path]:
    suffixes = {suffix: name for name, suffix in FORMATS.items()}
    if path.is_dir():
        raise StillhouseError(
            "must be a file, got a folder", where=str(path), hint=f"name a file in it: {path / 'student.onnx'}"
        )
    if form is None:
        form = suffixes.get(path.suffix)
        if form is None:
            raise StillhouseError(
                f"unknown suffix {path.suffix!r}" if path.suffix else "needs a suffix",
                where=str(path),
                hint=f"{', '.join(suffixes)}; or --format {', '.join(FORMATS)}",
            )
    if form not in FORMATS:
        raise StillhouseError(f"must be one of {', '.join(FORMATS)}, got {form!r}", where="--format")
    if path.exists() and not force:
        raise StillhouseError("the file exists already", where=str(path), hint="--force writes over it")
    if not path.parent.is_dir():
        raise StillhouseError(f"folder not found: {path.parent}", where=str(path), hint=f"mkdir -p {path.parent}")
    return path, form, _reserve(path, form)


def _reserve(path: Path, form: str) -> Path:
    """Choose a temporary name beside ``path``, and check that it can be written."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{FORMATS[form]}")
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise StillhouseError(f"cannot be written: {error.strerror}", where=str(path)) from error
    return temporary


def _take_inputs(data: MeasuredData, batch: int | None) -> tuple[str, Tensor]:
    """Take a few inputs (B, ...), normalised, of the test split, else the validation split, else the training split."""
    split = next((name for name in ("test", "val") if name in data.splits), data.splits[0])
    inputs: Any = next(iter(data.evaluation(split))).input
    if not isinstance(inputs, Tensor):
        raise StillhouseError(f"inputs must be tensors, got {type(inputs).__name__}", where="data")
    count = batch or min(max(2, len(inputs)), _SAMPLES)  # a program traced with one sample would keep to one
    return split, inputs[torch.from_numpy(np.resize(np.arange(len(inputs)), count))].contiguous()


def _wanted(reference: nn.Module, inputs: Tensor) -> Any:
    """The student's own output; the way to read it is settled by this first call."""
    with torch.no_grad():
        wanted = reference(inputs)
    if any(t.is_floating_point() and not bool(torch.isfinite(t).all()) for t in tensors_of(wanted)):
        raise StillhouseError("the student's output is not finite on real inputs", hint="take other --weights")
    return wanted


def _read(
    form: str, path: Path, module: nn.Module, metadata: dict[str, Any], saved: SavedRun
) -> Callable[[Tensor], Any]:
    """The file as a function, made of nothing else where that can be."""
    if form == "torch":
        return read_torch(path)
    if form == "onnx":
        return read_onnx(path)
    from safetensors.torch import load_file

    if metadata["model"] is not None:
        again = rebuilt(path, own_code=True, base=saved.recipe.base)
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


def _check(
    form: str,
    again: Callable[[Tensor], Any],
    fed: Tensor,
    reference: nn.Module,
    inputs: Tensor,
    counts: Sequence[int],
    share: float,
) -> tuple[float, float]:
    """Compare on batches of several sizes: the greatest difference and what it may be, of the worst of a program's outputs.

    Raises:
        StillhouseError: they differ by more, in shape, or the file cannot be run.
    """
    differences: dict[int, list[float]] = {0: [0.0]}
    scales: dict[int, float] = {0: 0.0}
    for count in counts:
        with torch.no_grad():
            wanted = tensors_of(reference(inputs[:count]))
        try:
            found = tensors_of(again(fed[:count]))
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
                f"the file gives {shapes[1]} where the student gives {shapes[0]}; nothing was written", where="student"
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
            f"the file's output differs from the student's by {worst:.3g}, and {tolerance:.3g} would be rounding; "
            "nothing was written",
            where="student",
            hint="a model that draws random numbers in eval mode does so, and one that depends on what came before",
        )
    return worst, tolerance
