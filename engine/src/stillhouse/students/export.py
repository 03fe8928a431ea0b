"""Export of a run's student: as weights, as a torch program or as ONNX, verified before the file is put in place."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from stillhouse.config.kept import KeptWeights
from stillhouse.contract.plugin import Plugin
from stillhouse.errors import StillhouseError
from stillhouse.students.data import MeasuredData, open_data
from stillhouse.students.formats import FORMATS, TOLERANCES, check_installed, write_format
from stillhouse.students.loader import fold_student
from stillhouse.students.metadata import describe_export
from stillhouse.students.modules import Output, Preprocessing
from stillhouse.students.saved_run import guarded, open_run
from stillhouse.students.verification import compare_outputs, compute_output, read_export

__all__ = ["Exported", "check_target", "export", "put_in_place", "refuse_existing"]

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


@guarded
def export(
    run: str | Path,
    to: str | Path,
    *,
    format: Literal["safetensors", "torch", "onnx"] | None = None,  # noqa: A002 - the command's own word for it
    weights: KeptWeights | None = None,
    averaged: bool = False,
    batch: int | None = None,
    with_preprocessing: bool = False,
    force: bool = False,
    fold_plugins: bool = True,
    data: Any = None,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    plugins: Sequence[Plugin] | None = None,
    trust: bool = False,
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
        data: for a run that was given its data from Python: the same again, or others of their form.
        student: see :func:`stillhouse.load_student`, as for the next three.
        teacher: likewise.
        teachers: likewise.
        plugins: likewise.
        trust: import what the run names by ``package.module:attribute`` as well; else only what is registered is built.

    Raises:
        StillhouseError: no run, no such format, an existing file, a model that this format cannot hold, or one whose
            output differs there; then no file is left.
    """
    path, form, temporary = check_target(Path(to), format, force)
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
    read = open_data(saved, data)
    try:
        module = fold_student(
            saved,
            data=read,
            student=student,
            teacher=teacher,
            teachers=teachers,
            plugins=plugins,
            fold_plugins=fold_plugins,
        )
        split, inputs = _take_inputs(read, batch)
    finally:
        read.close()
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
        put_in_place(temporary, path, force)
    except FileExistsError:
        raise refuse_existing(path) from None
    except OSError as error:
        raise StillhouseError(f"cannot be written: {error.strerror or error}", where=str(path)) from error
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


def check_target(path: Path, form: str | None, force: bool) -> tuple[Path, str, Path]:
    """Check a file to be written; returns it, its format, and a name beside it to write to.

    Raises:
        StillhouseError: a folder, an unknown suffix, an existing file, or one that cannot be written.
    """
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
        raise refuse_existing(path)
    if not path.parent.is_dir():
        raise StillhouseError(
            f"folder not found: {path.parent}", where=str(path), hint=f"mkdir -p {shlex.quote(str(path.parent))}"
        )
    return path, form, _reserve(path, form)


def refuse_existing(path: Path) -> StillhouseError:
    """The error about a file that is there."""
    return StillhouseError("the file exists already", where=str(path), hint="--force writes over it")


def put_in_place(temporary: Path, path: Path, force: bool) -> None:
    """Give the file its name; without ``force`` only where nobody else has taken that meanwhile."""
    if not force:
        try:
            os.link(temporary, path)  # a link, unlike a new name, takes nobody's place
        except FileExistsError:
            raise
        except OSError:
            pass  # a file system without links
        else:
            return
    temporary.replace(path)


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
