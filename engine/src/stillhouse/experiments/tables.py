"""A comparison as a table: on the terminal and as Markdown, with the same cells."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillhouse.cli.common import plain_table
from stillhouse.experiments.comparison import Comparison, Row
from stillhouse.experiments.statistics import Difference

__all__ = ["show", "to_markdown"]

_NOTHING = "–"  # noqa: RUF001 - a dash, as tables have it
_MINUS = "−"  # noqa: RUF001 - a minus sign
_SIGNIFICANT = 0.05
_NAME = 24
"""Characters of a name that are not broken off, however narrow the terminal."""


def show(comparison: Comparison, console: Console) -> None:
    """Print the table and what its signs mean."""
    head, rows = _cells(comparison)
    table: Table = plain_table(title=comparison.metric)
    for index, title in enumerate(head):
        is_text = index == 0 or title in comparison.columns
        table.add_column(
            title,
            justify="left" if is_text else "right",
            overflow="fold",
            no_wrap=not is_text,
            min_width=min(_NAME, max((len(row[0]) for row in rows), default=0)) if index == 0 else None,
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    for line in _legend(comparison):
        console.print(Text(line), soft_wrap=True)


def to_markdown(comparison: Comparison) -> str:
    """The table for a page."""
    head, rows = _cells(comparison)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([f"`{comparison.metric}`", "", *lines, "", *(f"{line}  " for line in _legend(comparison))]) + "\n"


def _cells(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    head = ["runs", *comparison.columns, "seeds", "mean ± sd"]
    for title in comparison.references:
        head += [f"{_MINUS} {title} [95%]", "detectable"]
    rows = []
    for row in comparison.rows:
        cells = [row.group.name, *(row.group.columns.get(c, _NOTHING) for c in comparison.columns)]
        cells += [str(len(row.group.values)), _mean(row)]
        for title in comparison.references:
            found = row.differences[title]
            cells += [_difference(found, row.adjusted[title]), _detectable(found)]
        rows.append(cells)
    return head, rows


def _mean(row: Row) -> str:
    if row.mean is None:
        return _NOTHING
    return f"{row.mean:.4f}" + (f" ± {row.deviation:.4f}" if row.deviation is not None else "")


def _difference(found: Difference | None, adjusted: float | None) -> str:
    if found is None:
        return _NOTHING
    text = f"{found.mean:+.4f}"
    if found.low is not None and found.high is not None:
        text += f" [{found.low:+.4f}, {found.high:+.4f}]"
    return text + ("" if found.paired else " u") + (" *" if adjusted is not None and adjusted < _SIGNIFICANT else "")


def _detectable(found: Difference | None) -> str:
    return _NOTHING if found is None or found.detectable is None else f"{found.detectable:.4f}"


def _legend(comparison: Comparison) -> list[str]:
    lines = []
    found = [d for row in comparison.rows for d in row.differences.values() if d is not None]
    if any(d.p is not None for d in found):
        counts = [sum(row.differences[title] is not None for row in comparison.rows) for title in comparison.references]
        lines.append(
            f"[95%]: t interval of the differences by seed, for each comparison by itself. *: p < 0.05 after Holm's "
            f"correction for the {' and the '.join(map(str, dict.fromkeys(counts)))} comparisons of the column."
        )
        lines.append(
            "detectable: the smallest true difference that the test, so corrected, finds with probability 0.8."
        )
    elif found:
        lines.append("One pair of runs has no interval: more seeds give one.")
    if any(not d.paired for d in found):
        lines.append("u: unpaired (Welch's interval): the two have fewer than two seeds in common.")
    lines += [f"{row.group.name}: {row.group.note}." for row in comparison.rows if row.group.note]
    if comparison.missing:
        lines.append(f"{len(comparison.missing)} runs are missing.")
    return lines
