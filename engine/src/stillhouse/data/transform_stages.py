"""Neighbouring transforms that run in one go: crops and flips composed, what is computed for a batch, what is called by sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import attrs
import numpy as np
import torch
from torch import Tensor

from stillhouse.data.batch_forms import find_batch_form
from stillhouse.data.draws import Begin, Draws
from stillhouse.data.kernels import Kernel
from stillhouse.data.random_numbers import Uniform, draw
from stillhouse.data.sample_errors import TransformError
from stillhouse.data.sampler import Ids
from stillhouse.data.windows import Placement, Windows
from stillhouse.seeds import mix_each

__all__ = ["Images", "Looks", "NamedTransform", "Stage", "make_stage", "run_stage"]

_DTYPES = (torch.uint8, torch.float32, np.dtype(np.uint8), np.dtype(np.float32))


@attrs.frozen(eq=False)
class NamedTransform:
    """A transform whose errors name its place in the recipe.

    Attributes:
        transform: of torchvision.transforms.v2.
        where: its key.
        form: what does the same to a batch; None: nothing does.
    """

    transform: Callable[..., Any]
    where: str
    form: Placement | Kernel | None = attrs.field(init=False)

    @form.default
    def _find_form(self) -> Placement | Kernel | None:
        return find_batch_form(self.transform)

    @property
    def name(self) -> str:
        """Its class."""
        return type(self.transform).__name__

    def __call__(self, *inputs: Any) -> Any:
        """Transform one sample."""
        try:
            return self.transform(*inputs)
        except Exception as error:
            raise TransformError(self.where, self.name, error) from error


Images = Tensor | list[Any]
"""A batch's images: (B, C, H, W), or one by one, as arrays where they come from memory."""


class Looks(NamedTuple):
    """Whose looks are made: the samples (B,), the run's seed, the epoch."""

    ids: Ids
    seed: int
    epoch: int

    def draw(self, n: int, place: int) -> Uniform:
        """``n`` numbers for each sample, for the transform at ``place``."""
        return draw(n, self.ids, self.seed, self.epoch, place)

    def list_seeds(self, place: int) -> list[int]:
        """A seed for each sample, for the transforms from ``place`` on."""
        seeds: list[int] = mix_each(self.seed, self.epoch, place, ids=self.ids).tolist()
        return seeds


class Stage(Protocol):
    """Neighbouring transforms that run in one go."""

    @property
    def transforms(self) -> tuple[NamedTransform, ...]:
        """In order."""
        ...

    @property
    def place(self) -> int:
        """Of the first one in the chain."""
        ...

    def join(self, following: Any) -> Stage | None:
        """Both in one go; None where that is not possible."""
        ...

    def run(self, images: Images, looks: Looks) -> Images:
        """Transform images that suit, of one shape but for placements."""
        ...


@attrs.frozen(eq=False)
class _Placed:
    """Crops and flips, composed."""

    transforms: tuple[NamedTransform, ...]
    place: int
    forms: tuple[Placement, ...]
    fill: int | None

    def join(self, following: Any) -> Stage | None:
        fills = {self.fill, following.fill} - {None} if isinstance(following, _Placed) else set()
        if not isinstance(following, _Placed) or len(fills) > 1:
            return None
        return _Placed(
            (*self.transforms, *following.transforms),
            self.place,
            (*self.forms, *following.forms),
            next(iter(fills), None),
        )

    def run(self, images: Images, looks: Looks) -> Images:
        arrays = [x.numpy() if isinstance(x, Tensor) else x for x in images]
        windows = Windows.over(arrays)
        for place, form in enumerate(self.forms, self.place):
            windows = form.place(windows, looks.draw(form.numbers, place))
        made = windows.copy(arrays, self.fill or 0)
        return [torch.from_numpy(x) for x in made] if isinstance(made, list) else torch.from_numpy(made)


@attrs.frozen(eq=False)
class _Computed:
    """A transform that changes pixels, of all images together."""

    transforms: tuple[NamedTransform, ...]
    place: int
    form: Kernel

    def join(self, _following: Any) -> None:
        return None

    def run(self, images: Images, looks: Looks) -> Images:
        x = _stack(images)
        if x is None:
            return [self.run([image], Looks(looks.ids[k : k + 1], *looks[1:]))[0] for k, image in enumerate(images)]
        return self.form.apply(x, self.form.draw(looks.draw(self.form.numbers, self.place), tuple(x.shape[1:])))


@attrs.frozen(eq=False)
class _Called:
    """Transforms that are called by sample, with the global generators seeded for it."""

    transforms: tuple[NamedTransform, ...]
    place: int
    _draws: Draws = attrs.field(factory=Draws, init=False)

    def join(self, following: Any) -> Stage | None:
        if not isinstance(following, _Called):
            return None
        return _Called((*self.transforms, *following.transforms), self.place)

    def run(self, images: Images, looks: Looks) -> Images:
        def call(begin: Begin | None) -> list[Any]:
            made: list[Any] = []
            for row, x in enumerate(images):
                if begin is not None:
                    begin(row)
                # A copy, as some transforms can work in place.
                out = x.clone() if isinstance(x, Tensor) else torch.from_numpy(x.copy())
                try:
                    for transform in self.transforms:
                        out = transform(out)
                except TransformError as error:
                    raise error.at(row) from error.error
                made.append(out)
            return made

        return self._draws.make(lambda: looks.list_seeds(self.place), call)


def make_stage(transform: NamedTransform, place: int) -> Stage:
    """Make the stage of one transform, at ``place`` of its chain."""
    form = transform.form
    if form is None:
        return _Called((transform,), place)
    if isinstance(form, Placement):
        return _Placed((transform,), place, (form,), form.fill)
    return _Computed((transform,), place, form)


def run_stage(stage: Stage, images: Images, looks: Looks) -> Images:
    """Run a stage on the images of ``looks``; those that are no uint8 or float32 (C, H, W) are transformed by sample.

    Raises:
        TransformError: a transform raised, with the row of a sample on which it does.
    """
    if isinstance(stage, _Called):
        return _gather(stage.run(images, looks))
    if _suits(images[0]) if isinstance(images, Tensor) else all(map(_suits, images)):
        try:
            return _gather(stage.run(images, looks))
        except Exception as error:
            raise _blame(stage, images, error) from error
    by_sample = _Called(stage.transforms, stage.place)
    made: list[Any] = []
    for row, x in enumerate(images):  # whether one suits does not depend on its neighbours in the batch
        alone = Looks(looks.ids[row : row + 1], looks.seed, looks.epoch)
        try:
            made += run_stage(stage if _suits(x) else by_sample, [x], alone)
        except TransformError as error:
            raise error.at(row) from error.error
    return _gather(made)


def _suits(x: Any) -> bool:
    return x.ndim == 3 and x.dtype in _DTYPES


def _stack(images: Images) -> Tensor | None:
    """The images as one tensor; None where they differ in shape or dtype."""
    if isinstance(images, Tensor):
        return images
    first = images[0]
    if any(x.shape != first.shape or x.dtype != first.dtype for x in images):
        return None
    return torch.stack(images) if isinstance(first, Tensor) else torch.from_numpy(np.stack(images))


def _gather(images: Images) -> Images:
    if not isinstance(images, Tensor) and all(isinstance(x, Tensor) for x in images):
        batch = _stack(images)
        return images if batch is None else batch
    return images


def _blame(stage: Stage, images: Images, error: Exception) -> TransformError:
    """Find the sample and the transform that fail, by torchvision's own code and words."""
    try:
        _Called(stage.transforms, stage.place).run(images, Looks(np.arange(len(images)), 0, 0))
    except TransformError as found:
        return found
    first = stage.transforms[0]
    return TransformError(first.where, first.name, error)
