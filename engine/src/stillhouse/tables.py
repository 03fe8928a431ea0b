"""Tables on the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

__all__ = ["plain_table"]


def plain_table(*columns: str, title: str | None = None) -> Table:
    """A table with a line under its head and nothing else."""
    return Table(
        *columns,
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
