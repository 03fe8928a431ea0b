"""The GPU proof's page: what was measured, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from _gpu_cases import TARGET_SET, Case

__all__ = ["TARGET", "met", "page"]

STEP_TARGET = 1.2
"""Throughput of a step that is compiled as a whole, over that of the loop by hand, which is not compiled."""

TARGET = 0.98
"""Stillhouse's share of the hand-written loop's throughput, at least."""


def met(case: Case, row: Mapping[str, Any]) -> bool | None:
    """Whether a row meets its target; None where it has none."""
    if case.kind != "plugins" or case.plugins != TARGET_SET:
        return None
    return "error" not in row and row["ratio"]["rounds"] >= 5 and row["ratio"]["median"] >= TARGET


def page(results: Mapping[str, Any], cases: Sequence[Case], command: str) -> str:
    """The page of ``results``, which may lack rows of ``cases``."""
    rows = results["rows"]
    machine = results["machine"]
    done = [case for case in cases if case.id in rows and "error" not in rows[case.id]]
    lines = ["## On a GPU", ""]
    described = ", ".join(f"{key} {value}" if key != "device" else str(value) for key, value in machine.items())
    lines += [f"Command: `{command}`. Machine: {described}.", ""]
    if not str(machine["device"]).startswith("cuda") or results["settings"]["quick"]:
        lines += ["**A rehearsal: it shows that everything runs. Its figures mean nothing.**", ""]
    lines += [f"{len(done)} of {len(cases)} rows are measured.", ""]
    lines += _tests(results.get("tests"))
    lines += _throughput([c for c in cases if c.kind == "plugins"], rows)
    lines += _precision([c for c in cases if c.kind == "precision"], rows)
    lines += _compiled([c for c in cases if c.kind == "compile"], rows)
    lines += _whole_steps([c for c in cases if c.kind == "step"], rows)
    lines += _loaders([c for c in cases if c.kind == "loader"], rows)
    failed = [c for c in cases if "error" in rows.get(c.id, {})]
    if failed:
        lines += ["### What failed", "", *(f"- {c.id}: {rows[c.id]['error']}" for c in failed), ""]
    lines += [
        "Both sides run in turn in one process, on the same modules, the same optimizer (fused AdamW) and the same two "
        "batches on the device; a turn ends with a wait for the device. Ratios are Stillhouse's throughput over that of "
        "the loop by hand, turn by turn: median (least to greatest). Each turn of Stillhouse has one look at its losses, "
        "which the default has every 50 steps. Milliseconds are medians of a step. Peak memory is what torch's allocator "
        "held at most, models and optimizer included. The loop by hand is tests/benchmarks/_plain_loop.py, in torch's own "
        "functions alone, with its own hooks; both losses at the same weights are compared before a row is measured. Its "
        "orthogonal projection is made so again by Cholesky's factor and its warm spectral term by the same iteration, "
        "written out: torch has no function for these; the exact term is torch.linalg.svdvals.",
    ]
    return "\n".join(lines) + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    if not rows:
        return ["Not measured.", ""]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def _ratio(row: Mapping[str, Any]) -> str:
    r = row["ratio"]
    return f"{r['median']:.3f} ({r['min']:.3f} to {r['max']:.3f})"


def _peak(row: Mapping[str, Any], side: str) -> str:
    return "" if row["peak_bytes"] is None else f"{row['peak_bytes'][side] / 2**30:.2f}"


def _measured(cases: Sequence[Case], rows: Mapping[str, Any]) -> list[tuple[Case, Mapping[str, Any]]]:
    return [(case, rows[case.id]) for case in cases if case.id in rows and "error" not in rows[case.id]]


def _tests(tests: Mapping[str, Any] | None) -> list[str]:
    lines = ["### Tests", ""]
    if tests is None:
        return [*lines, "Not run.", ""]
    end = "" if tests["ended"] else " They did not come to their end."
    skipped = f", {tests['skipped']} skipped" if tests.get("skipped") else ""
    lines += [f"`make test-gpu`: {tests['passed']} passed, {tests['failed']} failed{skipped}.{end}", ""]
    lines += [f"- failed: {name}: {' '.join(what)}" for name, what in tests.get("failures", {}).items()]
    by_file = tests.get("by_file", {})
    return [*lines, *_table(["file", "passed", "failed"], [[f, n["passed"], n["failed"]] for f, n in by_file.items()])]


def _throughput(cases: Sequence[Case], rows: Mapping[str, Any]) -> list[str]:
    header = ["student <- teacher", "plugins", "batch", "ms by hand", "ms", "images/s", "of the loop by hand"]
    header += ["peak GiB by hand", "peak GiB", "target"]
    body = []
    for case, row in sorted(
        _measured(cases, rows), key=lambda pair: [c.pair.name for c in cases].index(pair[0].pair.name)
    ):
        verdict = met(case, row)
        target = "" if verdict is None else f"at least {TARGET}: {'met' if verdict else 'missed'}"
        body.append(
            [
                case.pair.name,
                case.plugins,
                row["batch"],
                f"{row['ms']['hand']:.2f}",
                f"{row['ms']['stillhouse']:.2f}",
                f"{row['images_per_second']['stillhouse']:,.0f}",
                _ratio(row),
                _peak(row, "hand"),
                _peak(row, "stillhouse"),
                target,
            ]
        )
    return ["### With and without each plugin, bfloat16", "", *_table(header, body)]


def _precision(cases: Sequence[Case], rows: Mapping[str, Any]) -> list[str]:
    body = [
        [
            case.pair.name,
            case.precision,
            case.speed.get("teacher_precision", "same"),
            f"{row['images_per_second']['stillhouse']:,.0f}",
            _ratio(row),
            _peak(row, "stillhouse"),
        ]
        for case, row in _measured(cases, rows)
    ]
    header = ["student <- teacher", "precision", "the teacher's", "images/s", "of the loop by hand", "peak GiB"]
    return [f"### Precision, {TARGET_SET}", "", *_table(header, body)]


def _compiled(cases: Sequence[Case], rows: Mapping[str, Any]) -> list[str]:
    body = []
    for case, row in _measured(cases, rows):
        eager = rows.get(Case("plugins", case.pair, case.plugins).id, {})
        gain = eager["ms"]["stillhouse"] / row["ms"]["stillhouse"] if "ms" in eager else None
        body.append(
            [
                case.pair.name,
                case.speed["compile"],
                ", ".join(f"{which}: {len(why)}" for which, why in row["graph_breaks"].items()),
                row["compile_seconds"],
                f"{row['images_per_second']['stillhouse']:,.0f}",
                "" if gain is None else f"x{gain:.2f}",
                _ratio(row),
            ]
        )
    header = ["student <- teacher", "compiled", "graph breaks", "s to compile", "images/s", "over not compiled"]
    return [f"### torch.compile, {TARGET_SET}", "", *_table([*header, "of the loop by hand, compiled alike"], body)]


def _whole_steps(cases: Sequence[Case], rows: Mapping[str, Any]) -> list[str]:
    body = []
    for case, row in _measured(cases, rows):
        verdict = "met" if row["ratio"]["median"] >= STEP_TARGET else "missed"
        target = f"at least {STEP_TARGET}: {verdict}" if case.pair.name.startswith("ResNet-18") else ""
        images = (f"{row['images_per_second'][side]:,.0f}" for side in ("hand", "stillhouse"))
        body.append([case.pair.name, case.pair.batch, row["compile_seconds"], *images, _ratio(row), target])
    header = ["student <- teacher", "batch", "s to compile", "images/s by hand, not compiled", "images/s"]
    title = f'### `speed.compile = "step"`, {TARGET_SET}'
    return [title, "", *_table([*header, "of the loop by hand", "target"], body)]


def _loaders(cases: Sequence[Case], rows: Mapping[str, Any]) -> list[str]:
    what = {"memory": "looked up in memory", "workers": "cropped and flipped by worker processes"}
    body = [
        [
            case.pair.name,
            what[case.loader],
            f"{row['images_per_second']['hand']:,.0f}",
            f"{row['images_per_second']['stillhouse']:,.0f}",
            _ratio(row),
        ]
        for case, row in _measured(cases, rows)
    ]
    header = ["student <- teacher, 32x32", "batches", "images/s by hand", "images/s", "of the loop by hand"]
    return ["### Fed by the loader", "", *_table(header, body)]
