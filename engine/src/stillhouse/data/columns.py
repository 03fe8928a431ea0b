"""Tables of text: CSV, TSV and parquet files as columns by name, with the row that each value is from."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from stillhouse.data.files import show_name
from stillhouse.errors import StillhouseError, did_you_mean

__all__ = ["Columns", "read_columns"]

_DELIMITERS = ",;\t|"


@attrs.frozen(eq=False)
class Columns:
    """A table's columns.

    Attributes:
        file: where it was read, for messages.
        values: the texts of each column (N,), by the column's name; blanks at either end are gone.
        first_row: the number of the first row as an editor counts it: 2 below a header.
    """

    file: Path
    values: Mapping[str, Sequence[str]]
    first_row: int = 2

    def __len__(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.values.values())))

    def column(self, name: str, key: str) -> Sequence[str]:
        """The texts of a column (N,).

        Args:
            name: the column's.
            key: the key that names it, for the fault.

        Raises:
            StillhouseError: there is no such column.
        """
        if name not in self.values:
            raise StillhouseError(
                f"{show_name(self.file)} has no column {name!r}",
                where=key,
                hint=did_you_mean(name, list(self.values)),
            )
        return self.values[name]

    def place(self, row: int) -> str:
        """Name a row, for messages."""
        return f"{show_name(self.file)}, row {row + self.first_row}"


def read_columns(file: Path, where: str) -> Columns:
    """Read a table by its suffix: ``.parquet``, or text with a header whose fields are parted by , ; | or tabs.

    Args:
        file: the table's.
        where: the key that names it, for the fault.

    Raises:
        StillhouseError: no such file, not of its format, no rows, two columns of a name, rows of another length.
    """
    if not file.is_file():
        near = [p.name for p in file.parent.iterdir() if p.is_file()] if file.parent.is_dir() else []
        hint = did_you_mean(file.name, near) if near else ""
        raise StillhouseError(f"file not found: {show_name(file)}", where=where, hint=hint)
    try:
        values = _read_parquet(file, where) if file.suffix.lower() == ".parquet" else _read_text(file)
    except StillhouseError as error:
        raise error.within(where) from None
    except OSError as error:
        raise StillhouseError(f"{show_name(file)} cannot be read: {error.strerror or error}", where=where) from None
    found = Columns(file, values, first_row=1 if file.suffix.lower() == ".parquet" else 2)
    if not values or not len(found):
        raise StillhouseError(f"{show_name(file)} has no rows", where=where)
    return found


def _read_text(file: Path) -> dict[str, list[str]]:
    shown = show_name(file)
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StillhouseError(
            f"{shown} is not text in UTF-8: byte {error.start}", hint="save it as CSV UTF-8"
        ) from None
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise StillhouseError(f"{shown} has two columns {twice!r}", hint="a header, and each name once")
        rows = []
        for row in reader:
            if len(row) != len(names) and any(row):
                what = f"{shown}, line {reader.line_num}: must have {len(names)} fields, got {len(row)}"
                raise StillhouseError(what, hint=f"fields are parted by {delimiter!r}, quoted where they hold one")
            if any(row):  # an empty line is none
                rows.append(row)
    except csv.Error as error:
        raise StillhouseError(f"{shown}, line {reader.line_num}: is not valid CSV: {error}") from None
    columns = zip(*rows, strict=True) if rows else [() for _ in names]
    return {name: [value.strip() for value in column] for name, column in zip(names, columns, strict=True)}


def _read_parquet(file: Path, where: str) -> dict[str, list[str]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise StillhouseError("a parquet file needs pyarrow", hint="pip install pyarrow") from None
    try:
        table = parquet.read_table(file).to_pydict()
    except Exception as error:
        raise StillhouseError(f"{show_name(file)} is not a parquet file: {error}") from error
    return {
        str(name): ["" if value is None else str(value).strip() for value in column] for name, column in table.items()
    }
