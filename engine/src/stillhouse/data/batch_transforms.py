"""Augmentation of whole batches on the run's device: torchvision's v2 transforms, mixing of samples among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import ignite.distributed as idist
import torch
import torchvision.transforms.v2 as v2
from torch import Tensor

from stillhouse.config.signatures import call
from stillhouse.contract.batch import Batch, DataInfo
from stillhouse.data.augmentation import build_transforms
from stillhouse.data.geometry import Geometry
from stillhouse.data.random_numbers import draw
from stillhouse.data.sample_errors import TransformError
from stillhouse.data.windows import Placement, Windows
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.layout import format_shape
from stillhouse.nested import PartlyLabelled, map_tensors
from stillhouse.seeds import OwnRandomness, mix

__all__ = ["BatchTransforms", "build_batch_transforms", "transform_batches"]

_WHERE = "data.batch_transforms"
_MIXING = ("MixUp", "CutMix")
_ANY_SCALE = {*_MIXING, "RandomHorizontalFlip", "RandomVerticalFlip"}
"""These give the same whether images are normalised before or after."""
_KEY = 0x6261746368
"""Keeps a batch's random numbers apart from those of the sample that has the batch's number."""


class _Erasing(v2.RandomErasing):  # type: ignore[misc]  # torchvision ships no types
    """RandomErasing whose fill is copied to the device asynchronously, so that the host never waits."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the erased region and its fill."""
        params: dict[str, Any] = super().make_params(flat_inputs)
        device = next((x.device for x in flat_inputs if isinstance(x, Tensor)), None)
        if params["v"] is not None and device is not None and device.type == "cuda":
            params["v"] = params["v"].pin_memory().to(device, non_blocking=True)
        return params


@attrs.frozen
class _Each:
    """A crop or flip that is drawn for each image of the batch, by its id.

    Attributes:
        form: what is done to each.
    """

    form: Placement

    def __call__(self, ids: Tensor, key: tuple[int, ...], x: Tensor, target: Any) -> tuple[Tensor, Any]:
        u = draw(self.form.numbers, ids.numpy(), *key)
        return self.form.place(Windows.over_batch(x), u).gather(x, self.form.fill or 0), target


class BatchTransforms:
    """Applies ``[data] batch_transforms`` to batches; made by :func:`build_batch_transforms`.

    A transform draws once for the whole batch: all its images are flipped, or none. Random numbers follow from
    (seed, epoch, batch) and the process, whatever was drawn before; the global generators go on as if nothing had been
    drawn. Crops and flips with ``each = true`` draw for each image, by (seed, epoch, sample). Nothing in here waits for the device, and neither do the transforms in most cases: see docs/speed.md.

    Args:
        transforms: by name, in order.
        info: the data's: classes, normalisation, kind of target.
        seed: the run's.
    """

    def __init__(self, transforms: Sequence[tuple[str, Any]], info: DataInfo, seed: int) -> None:
        self._transforms = list(transforms)
        self._kind, self._classes, self._seed = info.target, info.classes, seed
        self._mixes = any(name in _MIXING for name, _ in transforms)
        scaled = not all(name in _ANY_SCALE for name, _ in transforms)
        self._normalisation = (info.mean, info.std) if scaled and info.mean else None
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, batch: Batch, epoch: int, index: int) -> Batch:
        """Apply all transforms to a batch; its ids stay.

        Args:
            batch: on the run's device; images (B, C, H, W), normalised.
            epoch: from 0.
            index: which batch of the epoch, from 0.

        Raises:
            StillhouseError: a transform fails, or gives another shape or type.
        """
        x, target, known = batch.input, batch.target, None
        if isinstance(target, PartlyLabelled):
            known, target = target, target.values
        if known is not None and self._mixes:
            raise StillhouseError(
                "labelled samples cannot be mixed with unlabelled ones",
                where=_WHERE,
                hint="leave MixUp and CutMix out, or `unlabelled` and `pool`",
            )
        if self._mixes:
            target = self._encode_one_hot(target)
        if self._normalisation is not None:
            mean, std = self._move_statistics(x.device)
            x = x * std + mean
        with OwnRandomness() as randomness, _isolate_cuda_generator(x.device) as on_cuda:
            seed = mix(self._seed, epoch, index, idist.get_rank(), _KEY)
            randomness.seed(seed)
            on_cuda(seed)
            for place, (name, transform) in enumerate(self._transforms):
                if isinstance(transform, _Each):
                    transform = partial(transform, batch.id, (self._seed, epoch, place, _KEY))
                x, target = self._apply(f"{_WHERE}[{place}]", name, transform, x, target)
        if self._normalisation is not None:
            x = (x - mean) / std
        return batch._replace(input=x, target=target if known is None else known._replace(values=target))

    def _apply(self, where: str, name: str, transform: Any, x: Tensor, target: Any) -> tuple[Tensor, Any]:
        try:
            takes_both = name in _MIXING or isinstance(transform, partial)
            out = transform(x, target) if takes_both else Geometry(transform, self._kind)(x, target)
        except StillhouseError:
            raise
        except Exception as error:
            cause = error.error if isinstance(error, TransformError) else error
            raise StillhouseError(
                f"{name} fails on a batch {format_shape(x)}: {type(cause).__name__}: {cause}", where=where
            ) from error
        image = out[0]
        if not isinstance(image, Tensor) or image.shape != x.shape or image.dtype != x.dtype:
            made = f"{image.dtype} {format_shape(image)}" if isinstance(image, Tensor) else type(image).__name__
            raise StillhouseError(
                f"{name} must keep a batch's shape and type: {x.dtype} {format_shape(x)} became {made}",
                where=where,
                hint="take another transform",
            )
        return image, out[1]

    def _encode_one_hot(self, target: Any) -> Tensor:
        if not isinstance(target, Tensor) or target.ndim != 1 or target.is_floating_point():
            got = format_shape(target) if isinstance(target, Tensor) else type(target).__name__
            raise StillhouseError(f"MixUp and CutMix need targets that are class indices (B,), got {got}", where=_WHERE)
        soft = torch.zeros(len(target), self._classes, device=target.device)
        return soft.scatter_(1, target[:, None], 1.0)

    def _move_statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        assert self._normalisation is not None
        if device not in self._on_device:
            mean, std = (torch.tensor(s, device=device)[:, None, None] for s in self._normalisation)
            self._on_device[device] = (mean, std)
        return self._on_device[device]


@contextmanager
def _isolate_cuda_generator(device: torch.device) -> Iterator[Any]:
    """Yield a function that seeds the GPU's generator, and restore its state afterwards. The state is on the host: nothing waits."""
    if device.type != "cuda":
        yield lambda _seed: None
        return
    index = device.index if device.index is not None else torch.cuda.current_device()
    generator = torch.cuda.default_generators[index]
    state = generator.get_state()
    try:
        yield generator.manual_seed
    finally:
        generator.set_state(state)


def build_batch_transforms(
    tables: Sequence[Mapping[str, Any]], info: DataInfo, seed: int, example_of: Callable[[], Batch]
) -> BatchTransforms:
    """Build the transforms of ``tables`` and try them on a small batch.

    Args:
        tables: ``{ use = "MixUp", alpha = 0.2 }``, as in ``[data] transforms``; their images are 0 to 1.
        info: the data's.
        seed: the run's.
        example_of: gives two samples or more, on the CPU.

    Raises:
        StillhouseError: every table that cannot be used; data without images, or with targets that cannot be mixed.
    """
    faults: list[Fault] = []
    example = example_of()
    if example.input.ndim != 4 or info.target == "boxes":
        what = "images (C, H, W)" if example.input.ndim != 4 else "targets other than boxes"
        got = format_shape(example.input[0]) if example.input.ndim != 4 else "boxes"
        raise StillhouseError(f"batch transforms need {what}, got {got}", where=_WHERE)
    built: list[tuple[str, Any]] = []
    for index, table in enumerate(tables):
        where = f"{_WHERE}[{index}]"
        try:
            built.append((str(table.get("use")), _build(table, where, info)))
        except StillhouseError as error:
            # A single table is built as the first of its list.
            faults += [_renumber(fault, index) for fault in error.faults]
    raise_faults(faults)
    made = BatchTransforms(built, info, seed)
    for trial in range(4):  # a transform that is applied now and then shows its fault in one of them
        made(example, 0, trial)
    return made


def _build(table: Mapping[str, Any], where: str, info: DataInfo) -> Any:
    if "each" in table:
        return _build_each(table, where, info)
    name = table.get("use")
    args = {key: value for key, value in table.items() if key != "use"}
    if name in _MIXING:
        if info.target != "class":
            raise StillhouseError(f"{name} needs targets of kind 'class', got {info.target!r}", where=f"{where}.use")
        if "num_classes" in args or "labels_getter" in args:
            key = "num_classes" if "num_classes" in args else "labels_getter"
            raise StillhouseError("is set by the data and must be left out", where=f"{where}.{key}")
        alpha = args.get("alpha", 1.0)
        if not (isinstance(alpha, int | float) and 0.0 < alpha < float("inf")):
            raise StillhouseError(f"must be a number > 0, got {alpha!r}", where=f"{where}.alpha")
        return call(getattr(v2, str(name)), args, where)
    if name == "RandomErasing":
        return call(_Erasing, args, where)
    return build_transforms([table], _WHERE)


def _build_each(table: Mapping[str, Any], where: str, info: DataInfo) -> Any:
    rest = {key: value for key, value in table.items() if key != "each"}
    if not isinstance(table["each"], bool):
        raise StillhouseError(f"must be true or false, got {table['each']!r}", where=f"{where}.each")
    if not table["each"]:
        return _build(rest, where, info)
    if info.target in ("mask", "depth", "image"):
        raise StillhouseError(
            f"needs targets that stay as they are, got {info.target!r}",
            where=f"{where}.each",
            hint="`transforms` move each target with its image",
        )
    chain = None if table.get("use") in _MIXING else build_transforms([rest], _WHERE)
    form = None if chain is None else chain.transforms[0].form
    if not isinstance(form, Placement):
        raise StillhouseError(
            f"{table.get('use')} cannot draw for each image of a batch, as given here",
            where=f"{where}.each",
            hint="RandomCrop (filled with one value), RandomHorizontalFlip and RandomVerticalFlip can; or use `transforms`",
        )
    return _Each(form)


def _renumber(fault: Fault, index: int) -> Fault:
    own = f"{_WHERE}[0]"
    return (
        Fault(f"{_WHERE}[{index}]{fault.where[len(own) :]}", fault.what, fault.hint)
        if fault.where.startswith(own)
        else fault
    )


def transform_batches(
    stream: Iterable[Batch], transforms: BatchTransforms, device: torch.device, start_step: int, steps_per_epoch: int
) -> Iterator[Batch]:
    """Move the batches of ``stream`` to ``device`` and transform them.

    Args:
        stream: training batches from global step ``start_step`` on.
        transforms: applied to each.
        device: the run's.
        start_step: batches that were taken before.
        steps_per_epoch: batches in an epoch.
    """
    for step, batch in enumerate(stream, start_step):
        inputs, targets = map_tensors(lambda x: x.to(device, non_blocking=True), (batch.input, batch.target))
        yield transforms(batch._replace(input=inputs, target=targets), *divmod(step, steps_per_epoch))
