"""Files of pictures: named before there is any, encoded in memory, and written all or none."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.errors import Fault, StillhouseError, raise_faults

if TYPE_CHECKING:
    from PIL.Image import Image

    from stillhouse.tasks.own_pixels import Map

__all__ = ["encode_map", "encode_picture", "name_files", "save_files"]


def name_files(images: Sequence[Path], folder: Path | None, *, force: bool, option: str) -> list[Path | None]:
    """Name a PNG file in ``folder`` for each image; images of one name get numbers.

    Args:
        images: the images' files.
        folder: where the files are to lie; it may be missing yet. None: nowhere.
        force: whether files that exist may be written over.
        option: what names the folder on the command line.

    Raises:
        StillhouseError: the folder cannot be written to, or files exist there, all named.
    """
    if folder is None:
        return [None] * len(images)
    there = folder
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise StillhouseError(
            f"no permission to write in {there}" if there.is_dir() else f"must be a folder, got {there}, a file",
            where=str(folder),
            hint=f"name another with {option}",
        )
    names: dict[str, None] = {}
    for path in images:
        name, number = path.stem, 1
        while name in names:
            number += 1
            name = f"{path.stem}-{number}"
        names[name] = None
    targets = [folder / f"{name}.png" for name in names]
    if not force:
        raise_faults(
            Fault(str(target), "the picture exists already", f"--force writes over it, {option} names another folder")
            for target in targets
            if target.exists()
        )
    return [*targets]


def encode_picture(picture: Image) -> bytes:
    """Encode a picture as PNG: many of them take little memory so."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def encode_map(found: Map) -> bytes:
    """Encode a task's map as PNG, of 8 or 16 bits as it is, with its meaning as the file's description.

    Raises:
        StillhouseError: a map of a form that PNG does not have.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_itxt("Description", found.about)
    file = io.BytesIO()
    try:
        Image.fromarray(found.values).save(file, "PNG", pnginfo=about)
    except (TypeError, OSError) as error:
        what = f"no PNG file holds a map {found.values.shape} of {found.values.dtype}"
        raise StillhouseError(what, where="task", hint="(H, W) of uint8 or uint16, or (H, W, 3) of uint8") from error
    return file.getvalue()


def save_files(contents: Mapping[Path, bytes]) -> None:
    """Write every file under a temporary name, and rename them when all are written.

    Raises:
        StillhouseError: one cannot be written; no file is left then.
    """
    temporary = {target: target.with_name(f".{target.stem}.{os.getpid()}.png") for target in contents}
    try:
        for target, content in contents.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary[target].write_bytes(content)
        for target in contents:
            temporary[target].replace(target)
    except OSError as error:
        raise StillhouseError(f"cannot be written: {error.strerror or error}", where=str(target)) from error
    finally:
        for file in temporary.values():
            with suppress(OSError):
                file.unlink(missing_ok=True)
