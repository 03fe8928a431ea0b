"""Writing arrays: row by row through plain files, with a checksum at the end.

Not through a memory map: on a full disk the one raises an error and the other ends the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayWriter", "write_small"]


class ArrayWriter:
    """Writes one array of fixed shape row by row, and knows its checksum at the end.

    Args:
        path: the file.
        shape: the whole array's (rows, ...).
        dtype: on the disk.
    """

    def __init__(self, path: Path, shape: Sequence[int], dtype: type[np.generic]) -> None:
        self.path, self.shape, self.dtype = path, tuple(shape), np.dtype(dtype)
        self._digest = hashlib.sha256()
        self._file: IO[bytes] = path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, rows: NDArray[Any]) -> None:
        """Append ``rows`` (B, ...).

        Raises:
            OSError: there is no room.
        """
        data = np.ascontiguousarray(rows, dtype=self.dtype).data
        self._digest.update(data)
        self._file.write(data)

    def close(self) -> dict[str, Any]:
        """Force everything onto the disk; what the index says of this array."""
        with self._file as file:
            file.flush()
            os.fsync(file.fileno())
        return {
            "file": self.path.name,
            "shape": list(self.shape),
            "dtype": str(self.dtype),
            "sha256": self._digest.hexdigest(),
        }

    def abandon(self) -> None:
        """Close the file as it is."""
        with contextlib.suppress(OSError):
            self._file.close()


def write_small(path: Path, array: NDArray[Any]) -> dict[str, Any]:
    """Write a whole array; its entry in the index."""
    writer = ArrayWriter(path, array.shape, array.dtype.type)
    writer.write(array)
    return writer.close()
