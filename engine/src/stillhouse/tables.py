"""Tables on the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

__all__ = ["make_table"]


def make_table(*columns: str, title: str | None = None) -> Table:
    """Make a table with a line under its head and no other lines."""
    return Table(
        *columns,
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
