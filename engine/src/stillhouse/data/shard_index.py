"""The index of tar shards: where each sample's files lie in them, read from the headers alone."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from stillhouse.data.files import show_name
from stillhouse.data.sources import ALIASES
from stillhouse.errors import Fault, StillhouseError, raise_faults

__all__ = ["Member", "ShardSample", "find_shards", "index_shard", "list_extensions", "read_member"]

_WHERE = "data.name"
_SPLITS = {"train": "train", "val": "val", "test": "test", **ALIASES}
_WILD = re.compile(r"[*?\[]")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST = 1_000_000
_SHOWN = 4


class Member(NamedTuple):
    """A file in a tar: where it begins, and its size in bytes."""

    offset: int
    size: int


class ShardSample(NamedTuple):
    """A sample: its key in the shard, and its files by extension."""

    key: str
    files: dict[str, Member]


def find_shards(place: Path) -> dict[str, list[Path]]:
    """Find the shards of each split, sorted; all under ``train`` where nothing says a split.

    Args:
        place: a folder of ``.tar`` files, in folders of their split's name or with names that begin with it
            (``val-0003.tar``); or a pattern with ``*``, ``{0000..0009}`` and ``{split}`` in it.

    Raises:
        StillhouseError: no such file, or some that say their split and some that do not.
    """
    if place.is_dir():
        return _divide(place, sorted(place.rglob("*.tar")))
    pattern = str(place)
    if "{split}" not in pattern:
        found = _expand(pattern, must=True)
        return {"train": found}
    by_split: dict[str, list[Path]] = {}
    for text, split in _SPLITS.items():
        by_split.setdefault(split, []).extend(_expand(pattern.replace("{split}", text), must=False))
    by_split = {
        split: list(dict.fromkeys(found)) for split, found in by_split.items() if found
    }  # val* is valid* as well
    if "train" not in by_split:
        raise StillhouseError(f"no shard of the split train: {show_name(place)}", where=_WHERE)
    return by_split


def _divide(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    by_split: dict[str, list[Path]] = {}
    for file in files:
        first = re.split(r"[/\\._-]", str(file.relative_to(folder)), maxsplit=1)[0]
        by_split.setdefault(_SPLITS.get(first.lower(), ""), []).append(file)
    if not files:
        hint = "compressed ones (.tar.gz) cannot be read at any place: unpack the compression"
        raise StillhouseError(f"no .tar file is below {show_name(folder)}", where=_WHERE, hint=hint)
    if list(by_split) == [""]:
        return {"train": by_split[""]}
    if "" in by_split or "train" not in by_split:
        lone = by_split.get("", files)[0]
        what = f"{show_name(lone)} says no split" if "" in by_split else "no shard is of the split train"
        raise StillhouseError(what, where=_WHERE, hint="train-0000.tar or train/0000.tar; or a pattern with {split}")
    return by_split


def _expand(pattern: str, must: bool) -> list[Path]:
    """Expand ranges and wildcards; with ``must`` a number of a range whose file is not there is refused."""
    names = list(_expand_ranges(pattern))
    by_name = {name: _find_named(name) for name in names}
    found = list(dict.fromkeys(path for here in by_name.values() for path in here))
    missing = [Path(name) for name, here in by_name.items() if not here]
    if missing and (must or found) and (len(names) > 1 or not _WILD.search(pattern)):
        shown = ", ".join(map(show_name, missing[:_SHOWN])) + (", ..." if len(missing) > _SHOWN else "")
        raise StillhouseError(f"{len(missing)} of {len(names)} shards are not there: {shown}", where=_WHERE)
    if must and not found:
        raise StillhouseError(f"no shard is there: {show_name(Path(pattern))}", where=_WHERE)
    return found


def _find_named(name: str) -> list[Path]:
    """The files of one name, which may have wildcards, sorted."""
    whole = Path(name)
    if not _WILD.search(name):
        return [whole] if whole.is_file() else []
    base = Path(whole.anchor) if whole.is_absolute() else Path()
    return sorted(base.glob(str(whole.relative_to(base))))


def _expand_ranges(pattern: str) -> Iterator[str]:
    match = _RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _MOST:
        raise StillhouseError(f"must count upwards, got {match[0]}", where=_WHERE, hint="{0000..0009}")
    for number in range(first, last + 1):
        yield from _expand_ranges(f"{pattern[: match.start()]}{number:0{len(match[1])}d}{pattern[match.end() :]}")


def index_shard(shard: Path) -> list[ShardSample]:
    """Index a shard in one pass over its headers, in the order in which its samples begin.

    A sample's files have one name up to the first dot; what follows is their extension, in small letters.

    Raises:
        StillhouseError: no tar, a compressed one, one that is cut off, or a file that is there twice.
    """
    samples: dict[str, dict[str, Member]] = {}
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if not member.isreg() or name.name.startswith("."):
                    continue
                stem, _, extension = name.name.partition(".")
                files = samples.setdefault(str(name.parent / stem), {})
                faults = []
                if extension.lower() in files:
                    faults.append(Fault(show_name(shard), f"{member.name} is in it twice"))
                if member.offset_data + member.size > size:
                    faults.append(Fault(show_name(shard), f"is cut off within {member.name}", "copy it again"))
                raise_faults(faults)
                files[extension.lower()] = Member(member.offset_data, member.size)
            # A header that is no whole one ends tarfile's list without a word.
            with shard.open("rb") as file:
                file.seek(tar.offset)
                end = file.read(tarfile.BLOCKSIZE)
            if len(end) < tarfile.BLOCKSIZE or end.strip(b"\0"):
                what = f"is cut off or damaged at byte {tar.offset:,}: a tar ends with a block of zeros"
                raise StillhouseError(what, where=show_name(shard), hint="copy it again")
    except tarfile.ReadError as error:
        what = f"is cut off, or no tar: {error}" if samples else f"is no tar: {error}"
        hint = "compressed ones cannot be read at any place: unpack the compression"
        raise StillhouseError(what, where=show_name(shard), hint=hint) from None
    except tarfile.TarError as error:
        raise StillhouseError(f"is damaged: {error}", where=show_name(shard)) from None
    except OSError as error:
        raise StillhouseError(f"cannot be read: {error.strerror}", where=show_name(shard)) from None
    return [ShardSample(key, files) for key, files in samples.items()]


def read_member(shard: Path, member: Member) -> bytes:
    """Read a file out of a shard.

    Raises:
        StillhouseError: the shard cannot be read, or has become shorter.
    """
    try:
        with shard.open("rb") as file:
            file.seek(member.offset)
            content = file.read(member.size)
    except OSError as error:
        raise StillhouseError(f"cannot be read: {error.strerror}", where=show_name(shard)) from None
    if len(content) < member.size:
        raise StillhouseError("has been cut off since it was indexed", where=show_name(shard))
    return content


def list_extensions(files: Mapping[str, Member]) -> str:
    """List a sample's extensions, for messages."""
    return ", ".join(files) or "none"
