"""Tar shards, as WebDataset writes them, as a source: each sample can be read by itself, out of an index of the headers."""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from PIL import Image
from torch import Tensor

from stillhouse.config.fields import strict_fields
from stillhouse.config.structure import structure
from stillhouse.data.files import show_name
from stillhouse.data.images import SUFFIXES, WHITE, Look, look_at, to_tensor
from stillhouse.data.shard_index import Member, ShardSample, find_shards, index_shard, list_extensions, read_member
from stillhouse.data.sources import Ids, Source
from stillhouse.data.targets import TargetSpec
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, did_you_mean, raise_faults

__all__ = ["ShardSpec", "Shards"]

_SHOWN = 5
_LOOKED_AT = 32
_HASHED = 1024
_HASHED_BYTES = 32 << 20
_OF_KIND = {"class": ("cls",), "vector": ("json",), "boxes": ("json",), "mask": ("png",), "depth": ("png",), "none": ()}


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class ShardSpec:
    """Description of a sample's files; its attributes are keys of ``[data] args``, beside those of its targets.

    Attributes:
        image: the extensions of images: the first one of these that a sample has is its input.
        label: the extension of the target's file, or ``json:KEY`` for an entry of a JSON file; None: ``cls``, a class's
            number, for classes, and for others ``json`` (vectors, boxes) or ``png`` beside an image of another extension.
    """

    image: tuple[str, ...] = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
    label: str | None = None


class Shards(Source):
    """Samples in tar shards. Ids number them in the order of the shards' names, and in a shard as they lie.

    Args:
        place: see :func:`stillhouse.data.shard_index.find_shards`.
        args: the keys of :class:`ShardSpec` and of :class:`stillhouse.data.targets.TargetSpec`.
        val_fraction: share held out where no shard is of val.
        skip_bad: leave out samples without the files that are asked for.
        background: the level of grey, 0 to 255, that transparent pixels are laid on.

    Raises:
        StillhouseError: shards that cannot be found or read, samples without an image or a label, each named.
    """

    def __init__(
        self, place: Path, args: Mapping[str, Any], val_fraction: float, skip_bad: bool, background: int = WHITE
    ) -> None:
        own, others = ([field.name for field in attrs.fields(kind)] for kind in (ShardSpec, TargetSpec))
        raise_faults(
            Fault(f"data.args.{key}", f"unknown key {key!r}", did_you_mean(key, [*own, *others]))
            for key in args
            if key not in (*own, *others)
        )
        files: ShardSpec = structure({k: v for k, v in args.items() if k in own}, ShardSpec, "data.args")
        told = {"target": "class", **{k: v for k, v in args.items() if k not in own}}
        self.target, self._background = told["target"], background
        self._label, _, self._entry = (files.label or "").partition(":")
        self.splits, self._files = {}, []
        keys: list[str] = []
        shards: list[int] = []
        images: list[Member] = []
        targets: list[Member] = []
        self._dropped: list[str] = []
        for split, found in find_shards(place).items():
            first = len(keys)
            for shard in found:
                self._files.append(shard)
                for sample in index_shard(shard):
                    pair = self._choose(sample, files)
                    if pair is None:
                        continue
                    keys.append(sample.key)
                    shards.append(len(self._files) - 1)
                    images.append(pair[0])
                    targets.append(pair[1])
            self.splits[split] = np.arange(first, len(keys), dtype=np.int64)
        self._report_dropped(skip_bad, len(keys))
        # Arrays, and no lists: workers share their memory.
        self._keys = np.asarray(keys)
        self.shards = self._file_of = np.asarray(shards, dtype=np.int64)
        self._images = np.asarray(images, dtype=np.int64).reshape(-1, 2)
        self._targets = np.asarray(targets, dtype=np.int64).reshape(-1, 2)
        empty = [split for split, ids in self.splits.items() if len(ids) == 0]
        raise_faults(Fault("data.name", f"the split {split!r} has no sample") for split in empty)
        if self.target == "class":
            self.class_names, self.labels = self._number_classes(told.get("classes"))
            self.spec = None
        else:
            self.spec = structure(told, TargetSpec, "data.args")
            self.class_names, self.labels = self.spec.class_names, np.zeros(len(keys), dtype=np.int64)
        self.stamp = self._hash()
        self.split_up(val_fraction, whole=list(self.splits) == ["train"])
        self._look: Look | None = None

    def _choose(self, sample: ShardSample, spec: ShardSpec) -> tuple[Member, Member] | None:
        """Choose a sample's image and target; what lacks one is noted."""
        label = self._label or next(iter(_OF_KIND.get(self.target, ())), "")
        image = next(
            (e for e in spec.image if e in sample.files and e != (label if self.target != "none" else "")), None
        )
        target = sample.files.get(label) if self.target != "none" else Member(0, 0)
        if image is None or target is None:
            missing = f".{label}" if image is not None else "image"
            place = f"{show_name(self._files[-1])}, {sample.key}"
            self._dropped.append(f"{place} has no {missing}, but {list_extensions(sample.files)}")
            return None
        return sample.files[image], target

    def _report_dropped(self, skip_bad: bool, kept: int) -> None:
        if not self._dropped:
            return
        shown = "; ".join(self._dropped[:_SHOWN]) + ("; ..." if len(self._dropped) > _SHOWN else "")
        what = f"{len(self._dropped)} of {len(self._dropped) + kept} samples lack a file: {shown}"
        if not skip_bad or not kept:
            hint = "`image` and `label` in args name the extensions; --skip-bad leaves such samples out"
            raise StillhouseError(what, where="data.args", hint=hint)
        warnings.warn(f"left out: {what}", StillhouseWarning, stacklevel=2)

    def _number_classes(self, told: Any) -> tuple[tuple[str, ...], Ids]:
        values = [self._read_label(i) for i in range(len(self._keys))]
        if all(isinstance(value, int) for value in values):
            labels = np.asarray(values, dtype=np.int64)
            names = told if told is not None and not isinstance(told, int) else range(told or int(labels.max()) + 1)
        else:
            texts = list(map(str, values))
            names = told if told is not None and not isinstance(told, int) else sorted(set(texts))
            index = {str(name): k for k, name in enumerate(names)}
            labels = np.asarray([index.get(text, -1) for text in texts], dtype=np.int64)
        wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
        if len(wrong):
            first = int(wrong[0])
            what = f"{len(wrong)} samples are of no class, the first {values[first]!r}"
            raise StillhouseError(what, where=self.place(first), hint=f"there are {len(names)} classes")
        return tuple(map(str, names)), labels

    def _read_label(self, i: int) -> Any:
        value = self._read_value(i)
        if isinstance(value, bool) or not isinstance(value, int | str):
            what = f"a class must be a number or a name, got {type(value).__name__}"
            raise StillhouseError(what, where=self.place(i), hint='label = "json:KEY" names an entry')
        if isinstance(value, str) and self._label in ("", "cls"):
            if not re.fullmatch(r"[0-9]{1,9}", value):
                what = f"a .cls must hold a class's number from 0 on, got {value!r:.40}"
                raise StillhouseError(what, where=self.place(i), hint='label = "txt" takes names')
            return int(value)
        return value

    def _read_value(self, i: int) -> Any:
        """Read a target that is text: of JSON the entry that ``label`` names, else the text."""
        content = self._read_target(i)
        try:
            text = content.decode().strip()
            if self._label != "json" and self.target == "class":
                return text
            value = json.loads(text)
        except ValueError as error:
            raise StillhouseError(f"its target cannot be read: {error}", where=self.place(i)) from None
        if not self._entry:
            return value
        if not isinstance(value, Mapping) or self._entry not in value:
            what = f"its JSON has no entry {self._entry!r}"
            hint = f"it has {', '.join(map(repr, list(value)[:_SHOWN]))}" if isinstance(value, Mapping) else ""
            raise StillhouseError(what, where=self.place(i), hint=hint)
        return value[self._entry]

    def _hash(self) -> bytes:
        digest = hashlib.sha256(repr([(shard.name, shard.stat().st_size) for shard in self._files]).encode())
        for array in (self._images, self._targets, self._file_of):
            digest.update(array.tobytes())
        count = min(len(self._keys), _HASHED, max(32, _HASHED_BYTES // max(1, int(self._images[:, 1].mean()))))
        for i in np.linspace(0, len(self._keys) - 1, count).astype(np.int64).tolist():
            digest.update(self.read_stored(i))
            if self.target not in ("class", "none"):
                digest.update(self._read_target(i))
        # All of what is small: labels may change, and no size with them.
        digest.update(self.labels.tobytes())
        for i in range(len(self._keys)) if self.target in ("vector", "boxes") else ():
            digest.update(self._read_target(i))
        return digest.digest()

    def _read_target(self, i: int) -> bytes:
        return read_member(self._files[self._file_of[i]], Member(*self._targets[i].tolist()))

    def read(self, i: int) -> Tensor:
        """See :meth:`Source.read`."""
        return to_tensor(self._open(self._images[i], i), self._background)

    def _open(self, member: Sequence[int], i: int) -> Image.Image:
        content = read_member(self._files[self._file_of[i]], Member(*map(int, member)))
        try:
            image = Image.open(io.BytesIO(content))
            image.load()
        except Exception as error:  # noqa: BLE001 - PIL raises OSError, SyntaxError, struct.error, ... for bad files
            hint = "replace it, or leave such samples out with --skip-bad"
            raise StillhouseError(f"this image cannot be read: {error}", where=self.place(i), hint=hint) from None
        return image

    def pair(self, i: int) -> tuple[Tensor, Any]:
        """See :meth:`Source.pair`."""
        if self.spec is None:
            return super().pair(i)
        if self.target == "none":
            return self.read(i), None
        image = self.read(i)
        try:
            if self.target in ("mask", "depth", "image"):
                return image, self.spec.read(self._open(self._targets[i], i))
            value = self._read_value(i)
            if self.target == "boxes" and isinstance(value, Mapping):
                value = {key: np.asarray(entry) for key, entry in value.items()}
            return image, self.spec.read(value)
        except StillhouseError as error:
            raise error.within(self.place(i)) from None

    def read_stored(self, i: int) -> bytes:
        """See :meth:`Source.read_stored`: the image's bytes."""
        return read_member(self._files[self._file_of[i]], Member(*self._images[i].tolist()))

    def place(self, i: int) -> str:
        """See :meth:`Source.place`."""
        return f"{show_name(self._files[self._file_of[i]])}, {self._keys[i]}"

    def channels(self) -> int:
        """Return 1 where 32 training images, evenly spaced, are all grey; else 3."""
        if self._look is None:
            train = self.splits["train"]
            some = train[np.linspace(0, len(train) - 1, min(_LOOKED_AT, len(train))).astype(np.int64)].tolist()
            self._look = look_at(io.BytesIO(self.read_stored(i)) for i in some)
        return 1 if self._look.gray else 3
