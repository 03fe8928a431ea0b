"""Batches of somebody else's loader, as they come, made to batches of a run: fields picked, converted and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from stillhouse.config.structure import structure
from stillhouse.contract.batch import Batch
from stillhouse.contract.task import SampleMaker
from stillhouse.data.boxes import fit_boxes
from stillhouse.data.fields import FIELDS_KEY, Fields, Item, check_mask, describe_fields, read_target
from stillhouse.data.labels import stack_labels
from stillhouse.data.looks import scale
from stillhouse.data.makers import check_taken, choose_maker
from stillhouse.data.sample_errors import is_finite
from stillhouse.data.targets import Kind, TargetSpec, convert_target, guess_kind
from stillhouse.data.tensors import convert_stacked
from stillhouse.errors import StillhouseError, did_you_mean
from stillhouse.nested import list_tensors

__all__ = ["BatchReader", "hash_tensors"]


_SAMPLES = "a list of samples"
_COLLATED = "torch's default collate_fn makes a batch of them: leave `collate_fn` out, or stack the inputs there"


@attrs.frozen(eq=False, kw_only=True)
class BatchReader:
    """Makes a :class:`Batch` of what a loader gives.

    Attributes:
        fields: what is what in a batch; None: (inputs, targets).
        spec: how targets are read.
        class_names: by label.
        maker: makes each sample's input and target; None: inputs and class indices as they are.
        target_shape: of one target, where that is a tensor and no class.
    """

    fields: Fields | None
    spec: TargetSpec
    class_names: tuple[str, ...]
    maker: SampleMaker | None
    target_shape: tuple[int, ...]

    @property
    def kind(self) -> Kind:
        """The targets' kind."""
        return self.spec.target

    @classmethod
    def of(cls, first: Any, args: Mapping[str, Any], names: tuple[str, ...], task: SampleMaker | None) -> BatchReader:
        """Find out how batches like ``first`` are to be read.

        Args:
            first: a training batch.
            args: the recipe's ``[data] args``: keys of :class:`TargetSpec`, and ``fields``.
            names: the classes' names that the loader knows; empty: none.
            task: what is trained.

        Raises:
            StillhouseError: an unknown key, a batch without these fields, or classes that nobody names.
        """
        told = dict(args)
        known = (FIELDS_KEY, *(field.name for field in attrs.fields(TargetSpec)))
        for key in told:
            if key not in known:
                hint = did_you_mean(key, known)
                raise StillhouseError(f"unknown key {key!r} of loaders", where=f"data.args.{key}", hint=hint)
        fields = Fields.read(told.pop(FIELDS_KEY)) if FIELDS_KEY in told else None
        try:
            item = _pick(fields, first)
            n = len(_read_inputs(item.input))
            _check_rows(item.target, n)
            _check_rows(item.mask, n, "mask")
            _read_weights(item.weight, n)
        except StillhouseError as error:
            raise error.within("data['train'], batch 0") from None
        target = None if item.target is None else _take_row(item.target, 0)
        told.setdefault("target", guess_kind(target))
        if told["target"] in ("class", "mask", "boxes") and names:
            told.setdefault("classes", list(names))
        if told["target"] == "class" and not told.get("classes"):
            raise StillhouseError(
                "nobody says which classes there are: the loader's data set has no `classes`, and lists no targets",
                where="data.args.classes",
                hint="args = { classes = 10 }, or their names",
            )
        spec: TargetSpec = structure(told, TargetSpec, "data.args")
        check_mask(fields, spec)
        check_taken(task, spec.target)
        maker = choose_maker(task, spec.target)
        read = None if spec.target in ("class", "none") else spec.read(target)
        shape = tuple(read.shape) if isinstance(read, Tensor) else ()
        return cls(fields=fields, spec=spec, class_names=spec.class_names, maker=maker, target_shape=shape)

    def count(self, raw: Any) -> int:
        """Return the number of samples in a batch."""
        return len(_pick(self.fields, raw).input)

    def read(self, raw: Any, split: str, step: int, before: int) -> Batch:
        """Make a batch.

        Args:
            raw: what the loader gives.
            split: the loader's.
            step: its number in the epoch.
            before: samples of this epoch in batches before it, from which its samples are numbered on.

        Raises:
            StillhouseError: it has not the form of a batch, or its targets are not what they should be.
        """
        try:
            item = _pick(self.fields, raw)
            x = _read_inputs(item.input)
            n = len(x)
            ids = torch.arange(before, before + n)
            if self.maker is None:
                return Batch(x, self._read_labels(item.target, n), ids, _read_weights(item.weight, n))
            _check_rows(item.target, n)
            _check_rows(item.mask, n, "mask")
            pairs = [self._make(x[row], item, row) for row in range(n)]
            targets = self.maker.collate([target for _, target in pairs])
            return Batch(torch.stack([x for x, _ in pairs]), targets, ids, _read_weights(item.weight, n))
        except StillhouseError as error:
            raise error.within(f"data[{split!r}], batch {step}") from None

    def _read_labels(self, targets: Any, n: int) -> Tensor:
        one_column = isinstance(targets, Tensor) and targets.ndim == 2 and targets.shape[1] == 1
        labels = stack_labels(targets[:, 0] if one_column else targets) if targets is not None else None
        if labels is None or len(labels) != n:
            got = f"{tuple(targets.shape)} {targets.dtype}" if isinstance(targets, Tensor) else type(targets).__name__
            raise StillhouseError(f"the targets must be {n} class indices (whole numbers), got {got}")
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            wrong = labels[(labels < 0) | (labels >= len(self.class_names))]
            raise StillhouseError(f"a class index must be from 0 to {len(self.class_names) - 1}, got {int(wrong[0])}")
        return torch.from_numpy(labels.copy())

    def _make(self, x: Tensor, item: Item, row: int) -> tuple[Tensor, Any]:
        assert self.maker is not None
        target: Any = None
        if self.kind == "class":
            target = int(self._read_labels(_take_row(item.target, slice(row, row + 1)), 1))
        elif self.kind != "none":
            mask = None if item.mask is None else item.mask[row]
            target = read_target(_take_row(item.target, row), mask, self.spec)
        if self.kind == "boxes":
            target = fit_boxes(target, x.shape[-2], x.shape[-1])
        return self.maker.sample(x, convert_target(self.kind, target))


def _pick(fields: Fields | None, raw: Any) -> Item:
    if fields is not None:
        return Item(**fields.pick_all(raw))
    if isinstance(raw, Sequence) and not isinstance(raw, str) and len(raw) == 2:
        return Item(*raw)
    if isinstance(raw, Tensor):
        return Item(raw)
    if isinstance(raw, Sequence) and raw and all(isinstance(part, tuple | list | Mapping) for part in raw):
        raise StillhouseError(f"a batch must be (inputs, targets), got {_SAMPLES}, {len(raw)} of them", hint=_COLLATED)
    got = describe_fields(raw) if isinstance(raw, Mapping | tuple | list) else type(raw).__name__
    raise StillhouseError(
        f"a batch must be (inputs, targets), got {got}",
        hint='args = { fields = { input = "image", target = "label" } } names the fields of dicts, '
        '["input", "target", ""] those of tuples',
    )


def _check_rows(targets: Any, n: int, what: str = "target") -> None:
    """Refuse targets, or masks of them, that are not as many as the inputs."""
    for part in targets.values() if isinstance(targets, Mapping) else [] if targets is None else [targets]:
        if not hasattr(part, "__len__") or (isinstance(part, Tensor) and not part.ndim):
            raise StillhouseError(f"a batch must have the {what}s of {n} samples, got {type(part).__name__}")
        if len(part) != n:
            raise StillhouseError(f"a batch must have the {what}s of {n} samples, got {len(part)}")


def _read_weights(given: Any, n: int) -> Tensor | None:
    """Read the weights of a batch's samples (B,), float32; None where the batch has none."""
    if isinstance(given, float):  # an item's default
        return None
    try:
        weights = torch.as_tensor(given).float()
    except (TypeError, ValueError, RuntimeError):
        raise StillhouseError(f"the field `weight` must have {n} numbers >= 0, got {type(given).__name__}") from None
    if weights.shape == (n, 1):
        weights = weights[:, 0]
    if weights.shape != (n,):
        raise StillhouseError(
            f"the field `weight` must have a number for each of {n} samples, got {tuple(weights.shape)}"
        )
    wrong = weights[~(weights.isfinite() & (weights >= 0))]
    if len(wrong):
        raise StillhouseError(f"a sample's weight must be a number >= 0, got {float(wrong[0]):g}")
    return weights


def _take_row(targets: Any, row: Any) -> Any:
    return {key: value[row] for key, value in targets.items()} if isinstance(targets, Mapping) else targets[row]


def _read_inputs(given: Any) -> Tensor:
    """Read a batch's inputs: (B, ...), float32; bytes are scaled to 0 ... 1."""
    if isinstance(given, Sequence) and given and all(isinstance(x, Tensor) for x in given):
        shapes = {tuple(x.shape) for x in given}
        if len({len(shape) for shape in shapes}) > 1:
            raise StillhouseError(f"the inputs of a batch must have one shape, got {_SAMPLES}", hint=_COLLATED)
        if len(shapes) > 1:
            raise StillhouseError(
                f"the inputs of a batch must have one shape, got {' and '.join(map(str, sorted(shapes)))}"
            )
        given = torch.stack(list(given))
    if not isinstance(given, Tensor):
        hint = "a collate_fn makes tensors of them; `fields` says which field is the input"
        raise StillhouseError(f"the inputs of a batch must be a tensor (B, ...), got {type(given).__name__}", hint=hint)
    if given.ndim and not len(given):
        raise StillhouseError("the batch is empty")
    x = convert_stacked(given)
    if x is None:
        raise StillhouseError(
            f"the inputs of a batch must be (B, ...) of uint8 (0 to 255) or floats, got {tuple(given.shape)} {given.dtype}"
        )
    if not is_finite(x):
        row = next(k for k, each in enumerate(x) if not is_finite(each))
        raise StillhouseError(
            f"the inputs must be finite: those of sample {row} of the batch are not, with NaN or infinity"
        )
    return scale(x)


def hash_tensors(tree: Any) -> bytes:
    """Hash the tensors, and the bytes, in what is nested."""
    digest = hashlib.sha256()
    for part in tree if isinstance(tree, list | tuple) else ():
        if isinstance(part, bytes):
            digest.update(part)
    for tensor in list_tensors(tree):
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()
