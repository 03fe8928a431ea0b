"""Tables of a comparison: on the terminal and as Markdown, with the same cells, which a report has too."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from rich.console import Console, ConsoleDimensions
from rich.table import Table
from rich.text import Text

from stillhouse.errors import first_line
from stillhouse.experiments.choice import CHOSEN, tell_choices
from stillhouse.experiments.comparison import Comparison, Row
from stillhouse.experiments.costs import COSTS
from stillhouse.experiments.sensitivity import describe_detectable
from stillhouse.experiments.statistics import Difference
from stillhouse.experiments.stopped_arm import tell_stopped
from stillhouse.terminal import make_table
from stillhouse.training.markdown import make_table as make_markdown_table

__all__ = [
    "NOTHING",
    "SIGNIFICANT",
    "Column",
    "format_cost",
    "format_detectable",
    "format_difference",
    "format_over_samples",
    "make_columns",
    "make_legend",
    "print_tables",
    "show",
    "to_markdown",
]

NOTHING = "–"  # noqa: RUF001 - a dash, as tables have it
"""What a table has where there is nothing."""
_MINUS = "−"  # noqa: RUF001 - a minus sign
SIGNIFICANT = 0.05
"""The level of the tests, after Holm's correction."""
_LISTED = 10
"""Runs without a result that the legend names, and alarms."""
_LONG = 40
"""A setting with more characters than this is in the JSON only."""
_WIDE = 100_000
"""Wider than any table."""


@attrs.frozen
class Column:
    """One column.

    Attributes:
        title: above it.
        cells: one for each row.
        is_text: whether they are text, and no numbers.
    """

    title: str
    cells: Sequence[str]
    is_text: bool = False


def show(comparison: Comparison, console: Console) -> None:
    """Print the table and its legend.

    Nothing is cut: a table too wide for the terminal comes in several parts, each with the runs' names.

    Args:
        comparison: the comparison to show.
        console: the terminal; made wider where a name leaves no room for a number beside it.
    """
    print_tables(make_columns(comparison), make_legend(comparison), comparison.metric, console)


def print_tables(units: Sequence[Sequence[Column]], legend: list[str], title: str, console: Console) -> None:
    """Print columns in as many tables as the terminal's width needs, and the lines below them: see :func:`show`."""
    parts = _split_columns(units, console)
    if len(parts) > 1:
        legend.append(f"The table is in {len(parts)} parts, for the terminal's width: --markdown prints it as one.")
    tables = [_make_table(part, title if part is parts[0] else None) for part in parts]
    console.size = ConsoleDimensions(max(console.width, *(_measure_width(t, console) for t in tables)), console.height)
    for table in tables:
        console.print(table)
    for line in legend:
        console.print(Text(line), soft_wrap=True)


def _split_columns(units: Sequence[Sequence[Column]], console: Console) -> list[list[Column]]:
    """Split the columns over as many tables as the terminal's width needs, each beginning with the first unit.

    In more than one table the numbers come before the settings.
    """
    whole = [column for unit in units for column in unit]
    if _measure_width(_make_table(whole, None), console) <= console.width:
        return [whole]
    first, *others = units
    parts: list[list[Column]] = []
    for unit in sorted(others, key=lambda unit: unit[0].is_text):
        if parts and _measure_width(_make_table([*parts[-1], *unit], None), console) <= console.width:
            parts[-1] += unit
        else:
            parts.append([*first, *unit])
    return parts


def _make_table(columns: Sequence[Column], title: str | None) -> Table:
    table: Table = make_table(title=title)
    for column in columns:
        table.add_column(Text(column.title), justify="left" if column.is_text else "right", no_wrap=True)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _measure_width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(width=_WIDE)).maximum


def to_markdown(comparison: Comparison) -> str:
    """Return the table and its legend as Markdown."""
    columns = [column for unit in make_columns(comparison) for column in unit]
    head = [column.title for column in columns]
    rows = zip(*(column.cells for column in columns), strict=True)
    legend = [f"{line}  " for line in make_legend(comparison)]
    return "\n".join([f"`{comparison.metric}`", "", make_markdown_table(head, rows), "", *legend]) + "\n"


def make_columns(comparison: Comparison) -> list[list[Column]]:
    """Make the columns; those of one unit stay side by side."""
    rows = comparison.rows
    units = [[Column("runs", [row.group.name for row in rows], is_text=True)]]
    units += [[Column(c, _format_settings(comparison, c), is_text=True)] for c in _select_settings(comparison)]
    units.append(
        [
            Column("seeds", [_format_seeds(row) for row in rows]),
            Column("mean ± sd", [_format_mean(r) for r in rows]),
        ]
    )
    for title in comparison.references:
        pairs = any(row.group.failed for row in rows)
        differences = [
            format_difference(row.differences[title], row.adjusted[title], pairs=pairs, mixed=row.mixed[title])
            for row in rows
        ]
        detectable = [format_detectable(row.differences[title]) for row in rows]
        unit = [Column(f"{_MINUS} {title} [95%]", differences), Column("detectable", detectable)]
        found = [row.differences[title] for row in rows]
        if any(d is not None and d.over_samples for d in found):
            unit.append(Column("and samples [95%]", [format_over_samples(d) for d in found]))
        units.append(unit)
    known = [name for name in COSTS if any(row.group.costs.get(name) for row in rows)]
    units += [[Column(COSTS[name], [format_cost(row.group.costs.get(name)) for row in rows])] for name in known]
    return units


def _format_settings(comparison: Comparison, column: str) -> list[str]:
    return [row.group.short.get(column, row.group.columns.get(column, NOTHING)) for row in comparison.rows]


def _select_settings(comparison: Comparison) -> list[str]:
    """Select the settings that fit into a table: all but long ones, and always the list of plugins and what was chosen."""
    return [
        c
        for c in comparison.columns
        if c in ("plugins", CHOSEN) or max(map(len, _format_settings(comparison, c)), default=0) <= _LONG
    ]


def _format_mean(row: Row) -> str:
    if row.mean is None:
        return NOTHING
    return f"{row.mean:.4f}" + (f" ± {row.deviation:.4f}" if row.deviation is not None else "")


def _format_seeds(row: Row) -> str:
    if row.group.stopped is not None:
        return "stopped"
    there, failed = len(row.group.values), len(row.group.failed)
    return f"{there} of {there + failed}" if failed else str(there)


def format_difference(
    found: Difference | None, adjusted: float | None, *, pairs: bool = False, mixed: bool = False
) -> str:
    """A difference with its interval and marks; ``pairs``: with their number; ``mixed``: of runs that are."""
    if found is None:
        return NOTHING
    text = f"{found.mean:+.4f}"
    if found.low is not None and found.high is not None:
        text += f" [{found.low:+.4f}, {found.high:+.4f}]"
    text += f" n={found.n}" if pairs else ""
    text += ("" if found.paired else " u") + (" e" if found.test == "sign-flip" else "") + (" m" if mixed else "")
    return text + (" *" if adjusted is not None and adjusted < SIGNIFICANT else "")


def format_cost(value: float | None) -> str:
    """Three digits: a machine's time has no more to tell."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def format_detectable(found: Difference | None) -> str:
    """The smallest detectable difference."""
    return NOTHING if found is None or found.detectable is None else f"{found.detectable:.4f}"


def format_over_samples(found: Difference | None) -> str:
    """The interval over seeds and samples."""
    return NOTHING if found is None or found.over_samples is None else "[{:+.4f}, {:+.4f}]".format(*found.over_samples)


def make_legend(comparison: Comparison) -> list[str]:
    """Make the sentences below the table, without a line break in them."""
    lines = []
    found = [d for row in comparison.rows for d in row.differences.values() if d is not None]
    if any(d.p is not None for d in found):
        counts = comparison.families.values()
        limits = [(title, describe_detectable(comparison, title)) for title in comparison.references]
        lines.append(
            f"[95%]: t interval of the differences by seed, for each comparison by itself. *: p < 0.05 after Holm's "
            f"correction for the {' and the '.join(map(str, dict.fromkeys(counts)))} comparisons of the column"
            f"{', each column a family of its own' if len(counts) > 1 else ''}."
        )
        lines.append(
            "detectable: the smallest true difference that the t test, so corrected, finds with probability 0.8"
            f"{''.join(f'; against {title} {told}' for title, told in limits if told)}."
        )
    if any(d.over_samples for d in found):
        lines.append(
            "and samples [95%]: percentiles of a bootstrap over the seeds and the test samples, of what the runs keep."
        )
    if any(d.test == "sign-flip" for d in found):
        lines.append(
            "e: tested by flipping signs, exactly, since pairs are tied or differ by the same steps: of n pairs, p is no less "
            "than 2 / 2^n."
        )
    ties = [
        f"{row.group.name} {_MINUS} {title}: {d.ties} of {d.n}"
        for title in comparison.references
        for row in comparison.rows
        if (d := row.differences[title]) is not None and d.ties
    ]
    if ties:
        lines.append(f"Ties, pairs of two equal values: {'; '.join(ties)}.")
    if any(d.n < 2 for d in found):
        lines.append("One pair of runs has no interval: more seeds give one.")
    if any(d.n > 1 and d.low is None for d in found):
        lines.append(
            "A difference without an interval is the same for each pair of runs: it has no spread to be measured by."
        )
    if any(not d.paired for d in found):
        lines.append("u: unpaired (Welch's interval): the two have fewer than two seeds in common.")
    shown = _select_settings(comparison)
    left = [column for column in comparison.columns if column not in shown]
    if left:
        lines.append(f"Too long for a table, and in --json: {', '.join(left)}.")
    lines += [f"{row.group.name}: {row.group.note}." for row in comparison.rows if row.group.note]
    lines += tell_choices(comparison.choices)
    lines += tell_stopped(comparison.stopped)
    if any(row.group.failed for row in comparison.rows):
        lines.append(
            "n: pairs of runs. Runs that have diverged, ended with an error or have no finite value are failures of their "
            "arm, and its mean is that of the others alone."
        )
    if any(any(row.mixed.values()) for row in comparison.rows):
        lines.append("m: mixed runs, which differ in more than their settings: the difference may be that.")
    lines += [f"Mixed: {what}." for what in comparison.mixed]
    if any(row.group.costs for row in comparison.rows):
        lines.append(
            "Costs are means over the runs as they ran, with whatever ran beside them: of the steps that were looked at, and "
            "samples/s of the whole run, its validation included."
        )
    lines += _list_alarms(comparison)
    if comparison.missing:
        lines.append(f"{len(comparison.missing)} runs have no result:")
        lines += [
            f"{item['arm']}, seed {item['seed']}: {first_line(item['error'])}." for item in comparison.missing[:_LISTED]
        ]
    if len(comparison.missing) > _LISTED:
        lines.append(f"and {len(comparison.missing) - _LISTED} more, in --json.")
    return lines


def _list_alarms(comparison: Comparison) -> list[str]:
    """A line for each alarm of each group, those of the most runs first."""
    told = [(row.group, alarm) for row in comparison.rows for alarm in row.group.alarms]
    told.sort(key=lambda pair: -pair[1].runs)
    lines = ["Alarms:"] if told else []
    lines += [
        f"{group.name}: {alarm.kind}, {alarm.about}, in {alarm.runs} of its runs; {alarm.advice}{'' if alarm.advice.endswith('?') else '.'}"
        for group, alarm in told[:_LISTED]
    ]
    return lines + ([f"and {len(told) - _LISTED} more, in --json."] if len(told) > _LISTED else [])
