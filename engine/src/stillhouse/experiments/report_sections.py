"""The sections of a report: what was found, of which parts, how the runs went, and what they cost."""

from __future__ import annotations

from stillhouse.experiments.choice import tell_choices
from stillhouse.experiments.comparison import Comparison, Group, Row
from stillhouse.experiments.costs import COSTS
from stillhouse.experiments.effects import find_effects
from stillhouse.experiments.picture import read_curve
from stillhouse.experiments.report_figures import MOST_CURVES, draw_curves, draw_effects, draw_forest
from stillhouse.experiments.report_page import Markup, element, make_figure, make_list, make_section, make_table
from stillhouse.experiments.sensitivity import describe_detectable
from stillhouse.experiments.settings import find_differing, flatten_settings, shorten_values
from stillhouse.experiments.statistics import Difference
from stillhouse.experiments.tables import (
    NOTHING,
    SIGNIFICANT,
    format_cost,
    format_over_samples,
    make_columns,
    make_legend,
)

__all__ = [
    "show_alarms",
    "show_choices",
    "show_costs",
    "show_curves",
    "show_differences",
    "show_effects",
    "show_parts",
    "show_table",
    "sum_up",
]


def sum_up(comparison: Comparison) -> Markup:
    """The answer in some sentences: how many runs there are, and which groups differ from the first reference."""
    done = sum(len(row.group.values) for row in comparison.rows)
    lines = [f"Runs with a result: {done}, in {len(comparison.rows)} groups, measured by {comparison.metric}."]
    if comparison.missing:
        lines.append(f"Without one: {len(comparison.missing)}.")
    if comparison.stopped:
        lines.append(f"Groups stopped before, and not tested: {len(comparison.stopped)}.")
    if comparison.references:
        lines.append(_tell_tests(comparison, comparison.references[0]))
    return element("p", " ".join(lines), class_="answer")


def _tell_tests(comparison: Comparison, title: str) -> str:
    """Which groups differ from the reference ``title``, and from which difference on that would have been seen."""
    tested = [row for row in comparison.rows if row.adjusted[title] is not None]
    if not tested:
        return f"None is tested against {title}: that takes two seeds or more of both."
    seen = [row for row in tested if (row.adjusted[title] or 0.0) < SIGNIFICANT]
    above = [_name_change(row, title) for row in seen if (d := row.differences[title]) is not None and d.mean > 0]
    below = [_name_change(row, title) for row in seen if (d := row.differences[title]) is not None and d.mean < 0]
    told_limits = describe_detectable(comparison, title)
    told = [f"above it {', '.join(above)}"] if above else []
    told += [f"below it {', '.join(below)}"] if below else []
    return (
        f"Groups tested against {title}: {len(tested)}; different from it at p < {SIGNIFICANT} after Holm's correction: "
        f"{len(seen)}{', ' if told else ''}{'; '.join(told)}. What the others differ by, these runs cannot tell"
        f"{told_limits and f': they find a true difference reliably only from {told_limits} on'}."
    )


def _name_change(row: Row, title: str) -> str:
    found = row.differences[title]
    return row.group.name if found is None else f"{row.group.name} ({found.mean:+.4f})"


def show_differences(comparison: Comparison) -> Markup:
    """The forest plot, and how many pairs stand behind each difference."""
    rows = []
    for title in comparison.references:
        for row in comparison.rows:
            found = row.differences[title]
            if found is not None:
                name = f"{row.group.name} − {title}"  # noqa: RUF001 - a minus sign
                rows.append(
                    [
                        name,
                        *_tell(found, row.adjusted[title]),
                        str(found.ties) if found.paired else NOTHING,
                        format_over_samples(found),
                    ]
                )
    if not rows:
        return Markup("")
    families = "; ".join(f"the {count} against {title}" for title, count in comparison.families.items() if count)
    head = ["comparison", "difference", "95% interval", "p", "p corrected", "test", "detectable", "pairs", "ties"]
    if any(d.over_samples for row in comparison.rows for d in row.differences.values() if d is not None):
        head.append("over seeds and samples")
    else:
        rows = [row[:-1] for row in rows]
    return make_section(
        "differences",
        "Differences",
        "A dot is the mean of the differences between two runs of one seed, the line its 95% interval: one that crosses zero, "
        "the grey line, is no evidence of a difference. Detectable is the smallest true difference that the test finds with "
        "probability 0.8; ties are pairs without any difference, and make the test that of flipped signs, which is exact."
        + (f" Holm's correction is for families of comparisons, by themselves: {families}." if families else ""),
        make_figure(draw_forest(comparison), f"differences of {comparison.metric} with intervals"),
        make_table(head, rows),
    )


def _tell(found: Difference, adjusted: float | None) -> list[str]:
    interval = NOTHING if found.low is None or found.high is None else f"{found.low:+.4f} to {found.high:+.4f}"
    ps = [NOTHING if p is None else f"{p:.2g}" for p in (found.p, adjusted)]
    detectable = NOTHING if found.detectable is None else f"{found.detectable:.4f}"
    pairs = str(found.n) if found.paired else f"unpaired, {found.n}"
    return [f"{found.mean:+.4f}", interval, *ps, found.test, detectable, pairs]


def show_table(comparison: Comparison) -> Markup:
    """The table with its legend, as on the terminal."""
    columns = [column for unit in make_columns(comparison) for column in unit if column.title not in COSTS.values()]
    rows = list(zip(*(column.cells for column in columns), strict=True))
    texts = [place for place, column in enumerate(columns) if column.is_text]
    return make_section(
        "table",
        "Table",
        "A row is a group of runs that differ by the seed alone; the signs in it are explained below.",
        make_table([column.title for column in columns], rows, texts),
        make_list(make_legend(comparison)),
    )


def show_parts(comparison: Comparison) -> Markup:
    """Which plugin, and which setting that differs, is in which group."""
    groups = [row.group for row in comparison.rows if row.group.recipe is not None]
    settings = [flatten_settings(group.recipe) for group in groups if group.recipe is not None]
    if not groups:
        return Markup("")
    lists = [_list_plugins(group) for group in groups]
    plugins = list(dict.fromkeys(name for names in lists for name in names))
    keys = [key for key in find_differing(settings) if key != "plugins"]
    options = [shorten_values([each.get(key) for each in settings]) for key in keys]
    rows = [
        [group.name, *("✓" if name in lists[place] else "" for name in plugins), *(texts[place] for texts in options)]
        for place, group in enumerate(groups)
    ]
    return make_section(
        "parts",
        "What is in which group",
        "A tick says that the plugin is in the list of the group's runs; behind the plugins stand the settings that differ.",
        make_table(["runs", *plugins, *keys], rows, range(len(plugins) + 1, len(plugins) + 1 + len(keys))),
        make_list([f"{group.name}: {group.note}." for group in groups if group.note]),
    )


def _list_plugins(group: Group) -> list[str]:
    tables = () if group.recipe is None else group.recipe.plugins
    return [str(table.get("name") or table.get("use", "")) for table in tables]


def show_choices(comparison: Comparison) -> Markup:
    """What was chosen before, on which grid, and whether the best lay inside; nothing where nothing was."""
    if not comparison.choices:
        return Markup("")
    rows = [
        [
            each.tell_arm(),
            ", ".join(each.tell_keys()),
            each.tell_tried(),
            ", ".join(each.tell_values()),
            "no" if each.ends else "yes",
        ]
        for each in comparison.choices
    ]
    return make_section(
        "choices",
        "What was chosen before",
        " ".join(tell_choices(comparison.choices)),
        make_table(["runs", "options", "tried, with the mean", "chosen", "best inside"], rows, (1, 2, 3, 4)),
    )


def show_effects(comparison: Comparison) -> Markup:
    """Main effects and interactions; nothing where the groups are no full grid."""
    effects = find_effects(comparison)
    if not effects:
        return Markup("")
    rows = [[effect.name, *_tell(effect.difference, effect.adjusted)] for effect in effects]
    return make_section(
        "effects",
        "Main effects and interactions",
        "A main effect is what one level adds to the first one, averaged over all others of the grid; an interaction (×) is what "  # noqa: RUF001
        "two add together beyond the sum of both: below zero, where greater is better, they get in each other's way. Corrected for "
        "all rows together.",
        make_figure(draw_effects(effects, comparison.metric), "main effects and interactions with intervals"),
        make_table(["effect", "difference", "95% interval", "p", "p corrected", "test", "detectable", "seeds"], rows),
    )


def show_curves(comparison: Comparison) -> Markup:
    """The validation curves of each group with the range of its seeds."""
    metric = comparison.metric.partition("/")[2]
    found = {
        row.group.name: curve
        for row in comparison.rows
        if (curve := read_curve([run.summary for run in row.group.runs], metric))
    }
    if not found:
        return Markup("")
    shown = dict(list(found.items())[:MOST_CURVES])
    references = [row.group.against.get(title, "") for title in comparison.references for row in comparison.rows]
    behind = next((name for name in references if name in shown), "")
    left = [f"Of {len(found)} groups the first {len(shown)} are drawn."] if len(found) > len(shown) else []
    return make_section(
        "curves",
        "Learning curves",
        f"A line is the mean over the seeds of validation {metric} after each epoch, the band reaches from the lowest seed to the "
        f"highest, and the number above is where the mean ends{f'; in grey stands {behind}' if behind else ''}.",
        make_figure(draw_curves(shown, metric, behind), f"validation {metric} by epoch"),
        make_list(left),
    )


def show_costs(comparison: Comparison) -> Markup:
    """What a group's runs cost; nothing where no run knows."""
    known = [name for name in COSTS if any(name in row.group.costs for row in comparison.rows)]
    if not known:
        return Markup("")
    rows = [[row.group.name, *(format_cost(row.group.costs.get(name)) for name in known)] for row in comparison.rows]
    return make_section(
        "costs",
        "Costs",
        "Means over the runs as they ran, with whatever ran beside them: of the steps that were looked at, and samples a second "
        "of the whole run, its validation included.",
        make_table(["runs", *(COSTS[name] for name in known)], rows),
    )


def show_alarms(comparison: Comparison) -> Markup:
    """What the runs have warned of; nothing where they have not."""
    rows = [
        [row.group.name, alarm.kind, alarm.about, f"{alarm.runs} of {len(row.group.runs) or alarm.runs}", alarm.advice]
        for row in comparison.rows
        for alarm in row.group.alarms
    ]
    if not rows:
        return Markup("")
    return make_section(
        "alarms",
        "Alarms",
        "Something looked sick while a run was watched; the last column says what to try.",
        make_table(["runs", "alarm", "about", "in runs", "advice"], rows, (1, 2, 4)),
    )
