"""The last sections of a report: which runs have no result, and what all were made with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from stillhouse.errors import first_line
from stillhouse.experiments.comparison import Comparison
from stillhouse.experiments.report_page import Markup, element, make_section, make_table

__all__ = ["describe_origin", "list_failures"]

_DIGITS = 16
"""Of a hash."""


def list_failures(comparison: Comparison) -> Markup:
    """The runs without a result, counted by cause and named."""
    how = (
        "Runs that have diverged, ended with an error or are not trained count as failures of their group, whose mean is that "
        "of the others alone."
    )
    if not comparison.missing:
        return make_section("failures", "Runs without a result", how, element("p", "There is none."))
    causes = Counter(first_line(str(item["error"])) for item in comparison.missing)
    counted = make_table(["cause", "runs"], [[cause, str(count)] for cause, count in causes.most_common()])
    rows = [
        [str(item["arm"]), str(item["seed"]), first_line(str(item["error"])), str(item["folder"])]
        for item in comparison.missing
    ]
    named = make_table(["runs", "seed", "cause", "folder"], rows, (2, 3))
    return make_section("failures", "Runs without a result", how, counted, named)


def describe_origin(comparison: Comparison, command: str) -> Markup:
    """The command, and what the runs were made with: seeds, data, versions."""
    runs = [run for row in comparison.rows for run in row.group.runs]
    seeds = sorted({seed for row in comparison.rows for seed in {**row.group.values, **row.group.failed}})
    facts: dict[str, dict[str, list[int]]] = {}
    for run in runs:
        versions = run.lock.get("versions")
        data = str(run.lock.get("data") or "")[:_DIGITS]
        found = {"data": data, "Python": run.lock.get("python"), "device": run.lock.get("device_name")}
        found |= versions if isinstance(versions, Mapping) else {}
        for name, value in found.items():
            if value:
                facts.setdefault(str(name), {}).setdefault(str(value), []).append(run.recipe.run.seed)
    rows = [["seeds", ", ".join(map(str, seeds))], ["metric", comparison.metric]]
    rows += [[name, _join(values, len(runs))] for name, values in facts.items()]
    rows += [["mixed", what] for what in comparison.mixed]
    typed = [element("p", element("code", command))] if command else []
    return make_section(
        "origin",
        "How it was made",
        "The same command with the same data and versions gives these runs again; data is the beginning of the hash of its content, "
        "which follows from the seed where that chooses a part of it.",
        *typed,
        make_table(["", "of the runs"], rows, (1,)),
    )


def _join(values: Mapping[str, list[int]], runs: int) -> str:
    """The values of one fact; where there are several, with the seeds of the runs that have them."""
    if len(values) == 1 and len(next(iter(values.values()))) == runs:
        return next(iter(values))
    return "; ".join(
        f"{value} in {len(seeds)} of {runs} runs (seed {', '.join(map(str, sorted(set(seeds))))})"
        for value, seeds in values.items()
    )
