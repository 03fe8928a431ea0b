"""Base of the sources whose samples are image files below a folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stillhouse.data.files import FoundFile, hash_contents, hash_listing, show_name
from stillhouse.data.images import WHITE, Look, decode, look_at, open_image
from stillhouse.data.shaping import Shaping
from stillhouse.data.sources import Ids, Source
from stillhouse.errors import StillhouseError, did_you_mean

__all__ = ["FileSource", "check_folder"]

_LOOKED_AT = 32


def check_folder(root: Path) -> None:
    """Refuse a folder that is not there.

    Raises:
        StillhouseError: with the nearest name.
    """
    if not root.is_dir():
        near = did_you_mean(root.name, [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else [])
        hint = near if near.startswith("did you mean") else ""
        raise StillhouseError(f"folder not found: {show_name(root)}", where="data.name", hint=hint)


class FileSource(Source):
    """A source of image files.

    Attributes:
        root: the folder.
        images: each sample's file below it.
        targets: each target's file, where there are any.
        background: the level of grey, 0 to 255, that transparent pixels are laid on.
    """

    root: Path
    images: NDArray[np.str_]
    targets: NDArray[np.str_] | None = None
    background: int = WHITE
    _target_look: Look | None = None

    def take(self, files: Sequence[FoundFile], targets: Sequence[FoundFile] = ()) -> None:
        """Take the samples' files, in the order of the ids, and those of their targets where there are any."""
        # Arrays, and no lists: workers share their memory.
        self.images = np.asarray([file.path for file in files])
        self.targets = np.asarray([file.path for file in targets]) if targets else None
        self._sizes = [np.asarray([file.size for file in part], dtype=np.int64) for part in (files, targets)]
        self.doubtful = (*_find_empty(files), *_find_empty(targets))
        self.stamp = hash_listing([*files, *targets])

    def hash_contents(self, ids: Ids) -> bytes:
        """Hash the files of ``ids``, in order: see :func:`stillhouse.data.files.hash_contents`."""
        paths, sizes = self.images[ids].tolist(), self._sizes[0][ids].tolist()
        if self.targets is not None:
            paths += self.targets[ids].tolist()
            sizes += self._sizes[1][ids].tolist()
        return hash_contents(self.root, paths, sizes)

    @cached_property
    def look(self) -> Look:
        """What the headers of 32 training images, evenly spaced, say."""
        return self.look_at_some(self.images)

    def look_at_some(self, files: NDArray[np.str_]) -> Look:
        """Look at the headers of ``files``, those of up to 32 training samples."""
        train = self.splits["train"]
        some = train[np.linspace(0, len(train) - 1, min(_LOOKED_AT, len(train))).astype(np.int64)]
        return look_at(self.root / files[i] for i in some)

    def read(self, i: int) -> Tensor:
        """See :meth:`Source.read`; float32 for all where the look has found 16 bits."""
        x = decode(self.root / self.images[i], self.background, self.look.deep)
        if x.is_floating_point() and not self.look.deep:
            raise StillhouseError(
                "this image has 16 bits a channel, and those that were looked at have 8",
                where=self.place(i),
                hint="save all with 8 bits, or all with 16",
            )
        return x

    def look_at_targets(self) -> None:
        """Look at the headers of paired images, which are read alike then; other targets are read as they are."""
        if self.target == "image" and self.targets is not None:
            self._target_look = self.look_at_some(self.targets)

    def pair(self, i: int) -> tuple[Tensor, Any]:
        """See :meth:`Source.pair`."""
        if self.target == "class":
            return super().pair(i)
        image = self.read(i)
        if self.targets is None or self.spec is None:
            return image, None
        path = self.root / self.targets[i]
        if self._target_look is not None:
            shape = Shaping(channels=1 if self._target_look.gray else 3)
            return image, shape(decode(path, self.background, self._target_look.deep))
        with open_image(path) as label:
            try:
                return image, self.spec.read(label)
            except StillhouseError as error:
                raise error.within(show_name(path)) from None

    def target_place(self, i: int) -> str:
        """See :meth:`Source.target_place`."""
        return "" if self.targets is None else f"{show_name(self.root / self.targets[i])} "

    def read_stored(self, i: int) -> bytes | None:
        """See :meth:`Source.read_stored`: the file's bytes."""
        try:
            content: bytes = (self.root / self.images[i]).read_bytes()
            return content
        except OSError as error:
            raise StillhouseError(f"this image cannot be read: {error.strerror}", where=self.place(i)) from None

    def place(self, i: int) -> str:
        """See :meth:`Source.place`."""
        return show_name(self.root / self.images[i])

    def channels(self) -> int:
        """Return 1 when all that the look has found is greyscale; else 3.

        Photographs in colour are often mixed with a few in grey, which are then read as RGB.
        """
        return 1 if self.look.gray else 3


def _find_empty(files: Sequence[FoundFile]) -> tuple[int, ...]:
    """Find the files that hold nothing, or are links that lead nowhere."""
    return tuple(i for i, file in enumerate(files) if file.size == 0)
