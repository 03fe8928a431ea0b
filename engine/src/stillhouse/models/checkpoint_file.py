"""The file of a run's checkpoint: written whole or not at all, sealed with a checksum, refused when a bit has changed.

It is an archive of ``torch.save``, which reads it as any other. The seal is the archive's own comment: SHA-256 of every byte
before it. torch does not look at the checksums that its archives have of their records.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from stillhouse.errors import StillhouseError
from stillhouse.files import open_file, replacing
from stillhouse.models.foreign_objects import read_with_shells, replace_shells
from stillhouse.models.state_dicts import find_tables

__all__ = ["FORMAT", "find_unreadable", "is_sealed", "read_checkpoint", "write_checkpoint"]

FORMAT = 2
"""Of a run's checkpoints; another one is refused."""

_MARK = b"stillhouse sha256:"
_SEAL = len(_MARK) + hashlib.sha256().digest_size * 2
_BLOCK = 1 << 20


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` with its seal, whole or not at all.

    Raises:
        OSError: as the system says it; what was there before still is.
    """
    with replacing(path) as temporary, temporary.open("w+b") as file:
        sink: Any = _Sink(file)  # torch asks for any IO, and calls write alone
        torch.save({"format": FORMAT, **content}, sink)
        if sink.error is not None:
            raise sink.error
        # An archive ends with the length of its comment, which has been empty so far.
        file.seek(-2, os.SEEK_END)
        file.write(_SEAL.to_bytes(2, "little"))
        file.seek(0)
        seal = _seal_of(file, None)
        file.seek(0, os.SEEK_END)
        file.write(seal)


class _Sink(io.RawIOBase):
    """Where torch writes to: the first error is kept and what follows let go, because torch's own words hide the system's."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Pass it on."""
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)


def _seal_of(file: IO[bytes], length: int | None) -> bytes:
    digest, left = hashlib.sha256(), length
    while block := file.read(_BLOCK if left is None else min(_BLOCK, left)):
        digest.update(block)
        left = None if left is None else left - len(block)
    return _MARK + digest.hexdigest().encode()


def is_sealed(path: Path) -> bool:
    """Whether the file ends with a seal, which is compared.

    Raises:
        OSError: it cannot be read.
        StillhouseError: it has changed since it was written.
    """
    with open_file(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size <= _SEAL:
            return False
        file.seek(-_SEAL, os.SEEK_END)
        seal = file.read(_SEAL)
        if not seal.startswith(_MARK):
            return False
        file.seek(0)
        if _seal_of(file, size - _SEAL) != seal:
            raise StillhouseError("has changed since it was written: its checksum differs", where=str(path))
    return True


def read_checkpoint(path: Path, advice: str, *, own: bool = False) -> dict[str, Any]:
    """Read a checkpoint, or any other file of ``torch.save`` that holds a table, on the CPU, without unpickling code.

    Args:
        path: the file.
        advice: the hint for a file that cannot be read.
        own: it must be a run's. Another one's is compared with its seal as well, where it has one.

    Raises:
        StillhouseError: it is missing, cut off, changed since it was written, or carries pickled code; a run's without a seal
            or of another version.
    """
    try:
        sealed = is_sealed(path)
    except FileNotFoundError:
        hint = "a run that is being trained puts newer ones in its place: ask again" if own else ""
        raise StillhouseError("file not found", where=str(path), hint=hint) from None
    except OSError as error:
        raise StillhouseError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    except StillhouseError as error:
        raise StillhouseError(error.faults[0].what, where=str(path), hint=advice) from None
    found = _unpack(path, advice, own=own or sealed)
    if not sealed and (own or "format" in found or "generators" in found):
        what = "has no checksum: its end is damaged, or another version of Stillhouse wrote it"
        raise StillhouseError(what, where=str(path), hint=advice)
    if sealed and found.get("format") != FORMAT:
        what = f"must be a checkpoint of format {FORMAT}, got {found.get('format')!r}"
        raise StillhouseError(what, where=str(path), hint=advice)
    if sealed:
        del found["format"]  # the file's own
    return found


def _unpack(path: Path, advice: str, *, own: bool) -> dict[str, Any]:
    """What the file holds; in one that is not our own, objects of unknown classes are left out and modules are state dicts."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on files of an older format, for what is refused anyway
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - damaged bytes make torch.load raise almost anything
        if (isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error)) or _is_plain_pickle(path):
            found = None if own else _read_without_code(path)
            if found is not None:
                return found
            raise StillhouseError(
                "has pickled objects, which are code, and is not loaded",
                where=str(path),
                hint="save a state dict, where its classes can be imported: "
                "torch.save(torch.load(FILE, weights_only=False)['model'].state_dict(), ...)",
            ) from None
        if "TorchScript" in str(error):
            raise StillhouseError(
                "is a TorchScript program, which is code, and is not run",
                where=str(path),
                hint="save its weights: torch.save(torch.jit.load(FILE).state_dict(), ...); "
                "or hand it over from Python: train(recipe, teacher=torch.jit.load(FILE))",
            ) from None
        raise StillhouseError("is truncated, damaged or not a checkpoint", where=str(path), hint=advice) from None
    if not isinstance(found, Mapping):
        raise StillhouseError(f"must hold a dict of tensors, got {type(found).__name__}", where=str(path), hint=advice)
    return dict(found)


def _read_without_code(path: Path) -> dict[str, Any] | None:
    """The tables of an archive with objects of unknown classes, without these; None where nothing of it can be used."""
    try:
        found, _ = replace_shells(read_with_shells(path))
    except Exception:  # noqa: BLE001 - an older format, damaged bytes, a module that torch blocks
        return None
    return found if isinstance(found, dict) and next(find_tables(found), None) is not None else None


def _is_plain_pickle(path: Path) -> bool:
    """Whether a file begins as pickle.dump writes it, and not as the archive of torch.save."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(1) == b"\x80"
    return False


def find_unreadable(state: Any, key: str = "") -> list[tuple[str, str]]:
    """Find what of ``state`` torch would write and never read back without running code: each key with its type."""
    if _comes_back(_without_values(state)):
        return []
    found = [fault for inner, value in _parts(state, key) for fault in find_unreadable(value, inner)]
    kind = type(state)
    return found or [(key, f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."))]


def _parts(state: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(state, Mapping):
        yield from ((f"{key}.{name}" if key else str(name), value) for name, value in state.items())
    elif isinstance(state, list | tuple):
        yield from ((f"{key}[{i}]", value) for i, value in enumerate(state))


def _without_values(state: Any) -> Any:
    """``state`` without its tensors, of which torch reads every one back, so that their numbers need not be copied."""
    if isinstance(state, DTensor):  # gathered before it is written
        return None
    if type(state) in (Tensor, nn.Parameter) and state.layout is torch.strided and not state.is_quantized:
        return None
    if type(state) in (dict, OrderedDict):
        return type(state)((name, _without_values(value)) for name, value in state.items())
    if type(state) in (list, tuple):
        return type(state)(_without_values(value) for value in state)
    return state


def _comes_back(state: Any) -> bool:
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # noqa: BLE001 - whatever a stranger's object does when it is pickled
        return False
    return True
