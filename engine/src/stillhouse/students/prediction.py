"""Predictions of a run's student for images: in words and, where its task has them, as pictures and as maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from stillhouse.config.kept import KeptWeights
from stillhouse.contract.plugin import Plugin
from stillhouse.contract.task import Task
from stillhouse.data.images import decode
from stillhouse.data.shaping import Shaping
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.layout import format_shape
from stillhouse.loop.tapped_model import TappedModel
from stillhouse.nested import map_tensors, slice_rows
from stillhouse.students.loader import fold_student
from stillhouse.students.picture_files import encode_map, encode_picture, name_files, save_files
from stillhouse.students.saved_run import SavedRun, guarded, open_run
from stillhouse.tasks.own_pixels import GivesMap, GivesPlaces
from stillhouse.training.devices import find_device

__all__ = ["Predicted", "predict"]


@attrs.frozen
class Predicted:
    """The prediction for one image.

    Attributes:
        image: the file.
        size: height and width that it was looked at with, its own or those it was resized to; a task may make an input
            of another size of it.
        prediction: what the task says, as plain data; places, such as boxes, in the image's own pixels.
        picture: the file that shows it; None where there is none.
        own_size: height and width of the image itself, as it is seen: turned as its file says.
        map: the file with a number for each of the image's own pixels; None where there is none.
        map_about: what these numbers mean.
    """

    image: str
    size: tuple[int, int]
    prediction: dict[str, Any]
    picture: str | None
    own_size: tuple[int, int]
    map: str | None = None
    map_about: str = ""


@guarded
def predict(
    run: str | Path,
    images: Sequence[str | Path],
    *,
    out: str | Path | None = "predictions",
    maps: str | Path | None = None,
    size: tuple[int, int] | None = None,
    own_size: bool = False,
    weights: KeptWeights | None = None,
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
        maps: the folder for maps, another one, made where it is missing: class indices, depths in millimetres, or what
            else the task has at each of the image's own pixels; None: write none.
        size: height and width to resize to; None: those of the training, where its recipe has a ``size``, else each
            image's own.
        own_size: leave each image its own size, whatever the recipe says.
        weights: ``best`` or ``last``; None: the best where the run has kept them, else the last.
        averaged: the averaged weights of a run with ``[ema]``, whatever it measured itself.
        device: None: as the recipe says.
        force: write over pictures and maps that exist.
        student: see :func:`stillhouse.load_student`, as for the next three.
        teacher: likewise.
        teachers: likewise.
        plugins: likewise.
        trust: import what the run names by ``package.module:attribute`` as well; else only what is registered is built.

    Raises:
        StillhouseError: no run; images that cannot be read, or that the student does not take, all named; pictures
            that are there already; maps of a task that has none.
    """
    saved = open_run(run, weights=weights, averaged=averaged)
    shape = saved.info.eval_shape or saved.info.input_shape
    if len(shape) != 3:
        raise StillhouseError(
            f"needs a run whose inputs are images (C, H, W), got shape {shape}", where=str(saved.folder)
        )
    shaping = _choose_shaping(saved, shape, size, own_size)
    paths = [Path(image) for image in images]
    folder = None if out is None or type(saved.task).picture is Task.picture else Path(out)
    _check_maps(maps, folder, saved)
    targets = name_files(paths, folder, force=force, option="--out")
    map_targets = name_files(paths, None if maps is None else Path(maps), force=force, option="--maps")
    _check_readable(paths, shaping, saved)
    place = find_device(device or saved.recipe.run.device)
    module = fold_student(saved, student=student, teacher=teacher, teachers=teachers, plugins=plugins).to(place)
    look = _Look(saved, module, place)
    found: list[Predicted] = []
    files: dict[Path, bytes] = {}
    faults: list[Fault] = []
    for path, target, map_target in zip(paths, targets, map_targets, strict=True):
        try:
            predicted, made = look(path, shaping, target, map_target)
        except _NotTakenError as error:
            faults += error.faults
            continue
        found.append(predicted)
        files |= made
    raise_faults(faults)
    save_files(files)
    return found


def _choose_shaping(
    saved: SavedRun, shape: tuple[int, ...], size: tuple[int, int] | None, own_size: bool
) -> Callable[[Tensor], Tensor]:
    """How an image (C, H, W) gets the form in which the student is to see it."""
    data = saved.recipe.data
    crop = data.crop_height_and_width
    channels = shape[0] if shape[0] in (1, 3) else None
    if size is not None or own_size:
        return Shaping(channels=channels, size=size)
    if crop is not None and not isinstance(saved.task, GivesMap | GivesPlaces):
        from torchvision.transforms.v2.functional import center_crop  # takes a while to import

        # As evaluation has it. Where the answer is about places in the image, none of it is cut away.
        resized = Shaping(channels=channels, size=data.height_and_width)

        def cut(image: Tensor) -> Tensor:
            shaped = resized(image)
            if shaped.shape[1] < crop[0] or shaped.shape[2] < crop[1]:  # which center_crop would fill up with black
                what = f"the image must be at least crop = {list(crop)}, got {format_shape(shaped)}"
                raise StillhouseError(what, hint="--size gives it another size")
            middle: Tensor = center_crop(shaped, list(crop))
            return middle

        return cut
    # After the task had its say: a task may make smaller inputs of images.
    return Shaping(channels=channels, size=None if data.size is None else (shape[1], shape[2]))


def _check_maps(maps: str | Path | None, pictures: Path | None, saved: SavedRun) -> None:
    if maps is None:
        return
    if not isinstance(saved.task, GivesMap):
        raise StillhouseError(
            f"the task {saved.recipe.task.name!r} gives no map of an image",
            where="--maps",
            hint="a task with the method map_of does: segmentation, depth and those that make images",
        )
    if pictures is not None and Path(maps).resolve() == pictures.resolve():
        raise StillhouseError(
            "must be another folder than that of the pictures, which have the same names", where="--maps"
        )


def _check_readable(paths: Sequence[Path], shaping: Callable[[Tensor], Tensor], saved: SavedRun) -> None:
    faults = []
    for path in paths:
        try:
            _read(path, shaping, saved)
        except StillhouseError as error:
            what = "must be an image, got a folder" if path.is_dir() else error.faults[0].what
            faults.append(Fault(str(path), what, f"its images: {path}/*" if path.is_dir() else ""))
    raise_faults(faults)


def _read(path: Path, shaping: Callable[[Tensor], Tensor], saved: SavedRun) -> tuple[Tensor, tuple[int, int]]:
    """Read an image (C, H, W), 0 to 1, as the student is to see it, and its own height and width."""
    channels = saved.info.input_shape[0]
    whole = decode(path, saved.recipe.data.background)
    image = shaping(whole)
    if image.shape[0] != channels:
        raise StillhouseError(
            f"the image must have the {channels} channels of the run's inputs, got {image.shape[0]}", where=str(path)
        )
    return image.float().div(255) if image.dtype == torch.uint8 else image, (whole.shape[1], whole.shape[2])


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

    def __call__(
        self, path: Path, shaping: Callable[[Tensor], Tensor], target: Path | None, map_target: Path | None
    ) -> tuple[Predicted, dict[Path, bytes]]:
        """Return the prediction for an image, and the content of the files that show it."""
        read, own_size = _read(path, shaping, self._saved)
        image = self._task.input_of(read)
        output = self._compute_output(path, image)
        said = self._say(output, (image.shape[1], image.shape[2]), own_size)
        files: dict[Path, bytes] = {}
        picture = self._task.picture(self._info, image, output) if target is not None else None
        if target is not None and picture is not None:
            files[target] = encode_picture(picture)
        about = ""
        if map_target is not None and isinstance(self._task, GivesMap):
            found = self._task.map_of(self._info, output, own_size)
            files[map_target], about = encode_map(found), found.about
        predicted = Predicted(
            image=str(path),
            size=(read.shape[1], read.shape[2]),
            prediction=said,
            picture=str(target) if target in files else None,
            own_size=own_size,
            map=str(map_target) if map_target in files else None,
            map_about=about,
        )
        return predicted, files

    def _say(self, output: Any, seen: tuple[int, int], own_size: tuple[int, int]) -> dict[str, Any]:
        """What the task says of an output, with places in the image's own pixels."""
        if isinstance(self._task, GivesPlaces):
            output = self._task.place_in(output, seen, own_size)
        try:
            return self._task.prediction(self._info, output)
        except NotImplementedError:
            raise StillhouseError(
                f"{type(self._task).__name__} has no method `prediction`",
                where="task.name",
                hint="add prediction(data, output)",
            ) from None

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
