"""Predictions of a run's student for images, in words and, where its task draws them, as pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from stillhouse.contract.plugin import Plugin
from stillhouse.contract.task import Task
from stillhouse.data.images import decode
from stillhouse.data.shaping import Shaping
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.loop.tapped_model import TappedModel
from stillhouse.nested import map_tensors, slice_rows
from stillhouse.students.loader import fold_student
from stillhouse.students.saved_run import SavedRun, Weights, guarded, open_run
from stillhouse.training.devices import find_device

__all__ = ["Predicted", "predict"]


@attrs.frozen
class Predicted:
    """The prediction for one image.

    Attributes:
        image: the file.
        size: height and width that it was looked at with, its own or those it was resized to; a task may make an input
            of another size of it.
        prediction: what the task says, as plain data.
        picture: the file that shows it; None where there is none.
    """

    image: str
    size: tuple[int, int]
    prediction: dict[str, Any]
    picture: str | None


@guarded
def predict(
    run: str | Path,
    images: Sequence[str | Path],
    *,
    out: str | Path | None = "predictions",
    size: tuple[int, int] | None = None,
    own_size: bool = False,
    weights: Weights | None = None,
    averaged: bool = False,
    device: str | None = None,
    force: bool = False,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    plugins: Sequence[Plugin] | None = None,
    trust: bool = False,
) -> list[Predicted]:
    """Predict images by a run's student. All are read before the first prediction, and all predicted before a picture is written.

    Args:
        run: the run's folder.
        images: files; channels and normalisation are made those of the training.
        out: the folder for pictures, made where it is missing; None: draw none.
        size: height and width to resize to; None: those of the training, where its recipe has a ``size``, else each
            image's own.
        own_size: leave each image its own size, whatever the recipe says.
        weights: ``best`` or ``last``; None: the best where the run has kept them, else the last.
        averaged: the averaged weights of a run with ``[ema]``, whatever it measured itself.
        device: None: as the recipe says.
        force: write over pictures that exist.
        student: see :func:`stillhouse.load_student`, as for the next three.
        teacher: likewise.
        teachers: likewise.
        plugins: likewise.
        trust: import what the run names by ``package.module:attribute`` as well; else only what is registered is built.

    Raises:
        StillhouseError: no run; images that cannot be read, or that the student does not take, all named; pictures
            that are there already.
    """
    saved = open_run(run, weights=weights, averaged=averaged)
    shape = saved.info.eval_shape or saved.info.input_shape
    if len(shape) != 3:
        raise StillhouseError(
            f"needs a run whose inputs are images (C, H, W), got shape {shape}", where=str(saved.folder)
        )
    if size is None and not own_size and saved.recipe.data.size is not None:
        size = (shape[1], shape[2])  # after the task had its say: a task may make smaller inputs of images
    shaping = Shaping(channels=shape[0] if shape[0] in (1, 3) else None, size=size)
    paths = [Path(image) for image in images]
    folder = None if out is None or type(saved.task).picture is Task.picture else Path(out)
    targets = _name_pictures(paths, folder, force)
    _check_readable(paths, shaping, saved)
    place = find_device(device or saved.recipe.run.device)
    module = fold_student(saved, student=student, teacher=teacher, teachers=teachers, plugins=plugins).to(place)
    look = _Look(saved, module, place)
    found: list[Predicted] = []
    pictures: dict[Path, bytes] = {}
    faults: list[Fault] = []
    for path, target in zip(paths, targets, strict=True):
        try:
            predicted, drawn = look(path, shaping, target)
        except _NotTakenError as error:
            faults += error.faults
            continue
        found.append(predicted)
        if target is not None and drawn is not None:
            pictures[target] = drawn
    raise_faults(faults)
    _save(pictures)
    return found


def _name_pictures(paths: Sequence[Path], folder: Path | None, force: bool) -> list[Path | None]:
    """Name a picture's file for each image; images of one name get numbers."""
    if folder is None:
        return [None] * len(paths)
    there = folder
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise StillhouseError(
            f"no permission to write in {there}" if there.is_dir() else f"must be a folder, got {there}, a file",
            where=str(folder),
            hint="name another with --out",
        )
    names: list[str] = []
    for path in paths:
        name, number = path.stem, 1
        while name in names:
            number += 1
            name = f"{path.stem}-{number}"
        names.append(name)
    targets = [folder / f"{name}.png" for name in names]
    if not force:
        raise_faults(
            Fault(str(target), "the picture exists already", "--force writes over it, --out names another folder")
            for target in targets
            if target.exists()
        )
    return [*targets]


def _check_readable(paths: Sequence[Path], shaping: Shaping, saved: SavedRun) -> None:
    faults = []
    for path in paths:
        try:
            _read(path, shaping, saved)
        except StillhouseError as error:
            what = "must be an image, got a folder" if path.is_dir() else error.faults[0].what
            faults.append(Fault(str(path), what, f"its images: {path}/*" if path.is_dir() else ""))
    raise_faults(faults)


def _read(path: Path, shaping: Shaping, saved: SavedRun) -> Tensor:
    channels = saved.info.input_shape[0]
    image = shaping(decode(path, saved.recipe.data.background))
    if image.shape[0] != channels:
        raise StillhouseError(
            f"the image must have the {channels} channels of the run's inputs, got {image.shape[0]}", where=str(path)
        )
    return image.float().div(255) if image.dtype == torch.uint8 else image


class _NotTakenError(StillhouseError):
    """The student cannot process one image; it may process others."""


class _Look:
    """Runs images through the student, one after the other."""

    def __init__(self, saved: SavedRun, student: nn.Module, device: torch.device) -> None:
        self._saved, self._info, self._task = saved, saved.info, saved.task
        self._student = TappedModel(student, "student", saved.task, device=device, frozen=True)
        self._device = device
        shape = (-1, 1, 1)
        self._mean = torch.tensor(self._info.mean or (0.0,)).reshape(shape)
        self._std = torch.tensor(self._info.std or (1.0,)).reshape(shape)

    def __call__(self, path: Path, shaping: Shaping, target: Path | None) -> tuple[Predicted, bytes | None]:
        """Return the prediction for an image, and its picture as the content of a PNG file."""
        read = _read(path, shaping, self._saved)
        image = self._task.input_of(read)
        output = self._compute_output(path, image)
        try:
            said = self._task.prediction(self._info, output)
        except NotImplementedError:
            raise StillhouseError(
                f"{type(self._task).__name__} has no method `prediction`",
                where="task.name",
                hint="add prediction(data, output)",
            ) from None
        picture = self._task.picture(self._info, image, output) if target is not None else None
        predicted = Predicted(
            image=str(path),
            size=(read.shape[1], read.shape[2]),
            prediction=said,
            picture=str(target) if picture is not None else None,
        )
        return predicted, None if picture is None else _encode_png(picture)

    def _compute_output(self, path: Path, image: Tensor) -> Any:
        """Compute the output for one image, on the CPU."""
        inputs = ((image - self._mean) / self._std)[None].to(self._device)
        try:
            output = self._student.output(inputs)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            if isinstance(error, StillhouseError):
                raise
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            height, width = (self._info.eval_shape or self._info.input_shape)[1:]
            own = tuple(image.shape[1:]) != (height, width)
            raise _NotTakenError(
                f"the student fails on this image of {image.shape[1]}x{image.shape[2]}: {first}",
                where=str(path),
                hint=f"it was trained on {height}x{width}: --size {height}x{width}" if own else "",
            ) from error
        return map_tensors(Tensor.cpu, slice_rows(output, 0, 1))


def _encode_png(picture: Any) -> bytes:
    """Encode a PIL image as PNG: many of them take little memory so."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _save(pictures: Mapping[Path, bytes]) -> None:
    """Write every file under a temporary name, and rename them when all are written."""
    temporary = {target: target.with_name(f".{target.stem}.{os.getpid()}.png") for target in pictures}
    try:
        for target, content in pictures.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary[target].write_bytes(content)
        for target in pictures:
            temporary[target].replace(target)
    except OSError as error:
        raise StillhouseError(f"cannot be written: {error.strerror or error}", where=str(target)) from error
    finally:
        for file in temporary.values():
            with suppress(OSError):
                file.unlink(missing_ok=True)
