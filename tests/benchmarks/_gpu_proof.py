"""The GPU proof's course: tests, then row by row, each written as soon as it is there."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _gpu_cases import PAIRS, SMALL_PAIRS, Case, cases
from _gpu_page import met, page
from _gpu_tests import run_tests
from _gpu_timing import QUICK, Effort, measure

__all__ = ["prove"]

_EXPECTED = {"compile": 150.0, "step": 150.0, "loader": 60.0}
"""Seconds that a first row of its kind may take; others: 40."""


def prove(given: argparse.Namespace, began: float) -> int:
    """Run what the command line ``given`` says, from ``began`` on, by :func:`time.monotonic`; the exit code."""
    torch.set_num_threads(1 if given.device == "cpu" else max(1, min(4, (os.cpu_count() or 1) // 2)))
    all_cases = every_case(given)
    chosen = [case for case in all_cases if given.only in case.id]
    if given.list:
        print("\n".join(case.id for case in chosen))
        return 0
    out = given.out or Path(os.environ.get("OUT") or "gpu-results")
    out.mkdir(parents=True, exist_ok=True)
    results = begun(given, out / "gpu.json")
    if results is None:
        return 2
    deadline = began + given.minutes * 60

    def keep() -> None:
        scratch = out / "gpu.json.tmp"
        scratch.write_text(json.dumps(results, indent=1) + "\n")
        scratch.replace(out / "gpu.json")
        (out / "gpu.md").write_text(page(results, all_cases, command(given)))

    if given.tests != "no" and not results.get("tests", {}).get("ended"):
        limit = 0.5 * (deadline - time.monotonic()) if given.tests == "first" else deadline - time.monotonic()
        print("tests ...", flush=True)
        results["tests"] = run_tests(out, given.device, limit)
        shown = {key: value for key, value in results["tests"].items() if key != "by_file"}
        print(f"tests: {shown}", flush=True)
        keep()
    if given.tests != "only":
        for case in chosen:
            row = results["rows"].get(case.id)
            if row is not None and "error" not in row:
                continue
            if time.monotonic() + expected(case, results["rows"]) > deadline:
                print(f"no time for {case.id}", flush=True)
                continue
            results["rows"][case.id] = attempt(case, given)
            keep()
            print(line(case, results["rows"][case.id]), flush=True)
    keep()
    return verdict(given, results, all_cases, out)


def every_case(given: argparse.Namespace) -> list[Case]:
    """The rows that a complete page has."""
    pairs = SMALL_PAIRS if given.quick else PAIRS
    if given.batch:
        pairs = {name: replace(pair, batch=given.batch) for name, pair in pairs.items()}
    return cases(pairs, given.backend)


def begun(given: argparse.Namespace, file: Path) -> dict[str, Any] | None:
    """Results so far; None, with the reason printed, where they are of something else."""
    machine = {"device": "cpu", "Python": platform.python_version(), "torch": str(torch.__version__)}
    if given.device == "cuda":
        machine["device"] = f"cuda, {torch.cuda.get_device_name()}"
        machine["CUDA"] = str(torch.version.cuda)
    settings = {"quick": given.quick, "batch": given.batch, "rounds": given.rounds, "backend": given.backend}
    results: dict[str, Any] = {"machine": machine, "settings": settings, "rows": {}}
    for known in filter(None, (given.known, file if file.exists() else None)):
        try:
            before = json.loads(known.read_text())
            same = before["machine"] == machine and before["settings"] == settings
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"gpu.py: {known} has no results: {error}", file=sys.stderr)
            return None
        if not same:
            print(f"gpu.py: {known} is of {before['machine']} with {before['settings']}, now it is", file=sys.stderr)
            print(f"gpu.py: {machine} with {settings}: name another folder, --out", file=sys.stderr)
            return None
        results["rows"] |= before["rows"]
        if "tests" in before:
            results["tests"] = before["tests"]
    return results


def expected(case: Case, rows: dict[str, Any]) -> float:
    """Seconds that ``case`` may take: somewhat more than the longest of its kind so far."""
    own = [r["seconds"] for name, r in rows.items() if name.startswith(case.kind + " |") and "seconds" in r]
    return 1.3 * max(own) + 5 if own else _EXPECTED.get(case.kind, 40.0)


def attempt(case: Case, given: argparse.Namespace) -> dict[str, Any]:
    """The row, or the error in its place: the others are measured all the same."""
    effort = replace(QUICK if given.quick else Effort(), workers=1 if given.quick else given.workers)
    if given.rounds:
        effort = replace(effort, rounds=given.rounds)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return measure(case, given.device, effort)
    except Exception as error:  # noqa: BLE001 - whatever it is belongs into the results
        traceback.print_exc()
        first = next((text for text in str(error).splitlines() if text.strip()), "")
        return {"error": f"{type(error).__name__}: {first}", "seconds": round(time.perf_counter() - start, 1)}


def line(case: Case, row: dict[str, Any]) -> str:
    """A row on the terminal."""
    if "error" in row:
        return f"{case.id}: {row['error']}"
    ratio, speed = row["ratio"], row["images_per_second"]
    end = {None: "", True: ", target met", False: ", target missed"}[met(case, row)]
    return (
        f"{case.id}: {speed['stillhouse']:,.0f} images/s, by hand {speed['hand']:,.0f}, ratio {ratio['median']:.3f} "
        f"({ratio['min']:.3f} to {ratio['max']:.3f}), {row['steps']} steps a turn, {row['seconds']} s{end}"
    )


def command(given: argparse.Namespace) -> str:
    """What to type for the same figures."""
    own = [("--device cpu", given.device == "cpu"), ("--quick", given.quick)]
    own += [(f"--{key} {getattr(given, key)}", getattr(given, key)) for key in ("batch", "rounds")]
    own += [(f"--backend {given.backend}", given.backend != "inductor")]
    return " ".join(["python tests/benchmarks/gpu.py", *(text for text, said in own if said)])


def verdict(given: argparse.Namespace, results: dict[str, Any], all_cases: list[Case], out: Path) -> int:
    """Write the page where asked, sum up, and say how it ended."""
    rows, tests = results["rows"], results.get("tests", {})
    rehearsal = given.device == "cpu" or given.quick
    text = page(results, all_cases, command(given))
    if given.write and rehearsal:
        print(f"a rehearsal measures nothing: {given.write} is as it was")
    elif given.write:
        given.write.write_text(text)
    errors = [case.id for case in all_cases if "error" in rows.get(case.id, {})]
    missed = [c.id for c in all_cases if c.id in rows and c.id not in errors and met(c, rows[c.id]) is False]
    left = [case.id for case in all_cases if case.id not in rows] if given.tests != "only" else []
    failed = given.tests != "no" and (tests.get("failed", 0) or not tests.get("ended"))
    print(f"\n{text}\nresults: {out / 'gpu.json'}, {out / 'gpu.md'}")
    print(f"rows: {len(rows)}; errors: {errors or 'none'}; left: {len(left)}; tests: {'failed' if failed else 'ok'}")
    if not rehearsal:
        print(f"target missed: {missed or 'none'}")
    if errors or failed or (missed and not rehearsal):
        return 1
    return 3 if left else 0
