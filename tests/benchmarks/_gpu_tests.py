"""Runs the tests that are marked ``gpu``, in a process of their own, and counts what came out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

__all__ = ["run_tests"]

ROOT = Path(__file__).parents[2]


def run_tests(out: Path, device: str, seconds: float) -> dict[str, Any]:
    """Run them for at most ``seconds``; the log and pytest's XML go to ``out``.

    Args:
        out: a folder.
        device: ``cuda``, or ``cpu`` to rehearse those of tests/gpu, as far as they can be.
        seconds: the limit; what had not ended by then is missing from the counts.
    """
    marked = sorted(
        str(p.relative_to(ROOT))
        for p in (ROOT / "tests").rglob("test_*.py")
        if "mark.gpu" in p.read_text(encoding="utf-8") and (device != "cpu" or p.parent.name == "gpu")
    )
    xml, log = out / "gpu-tests.xml", out / "gpu-tests.log"
    xml.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-ra", "--durations=10", "-v"]
    environment = {**os.environ, "STILLHOUSE_GPU_TESTS_ON": device}
    with log.open("w") as sink:
        try:
            code = subprocess.run(
                [*command, f"--junitxml={xml}", *marked],
                cwd=ROOT,
                env=environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return {
                "ended": False,
                "passed": log.read_text().count(" PASSED"),
                "failed": log.read_text().count(" FAILED"),
            }
    if not xml.exists():
        return {"ended": False, "exit": code, "passed": 0, "failed": 0, "log": log.read_text()[-2000:]}
    return {"ended": True, "exit": code, **_counts(ElementTree.parse(xml).getroot())}


def _counts(root: ElementTree.Element) -> dict[str, Any]:
    found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "failures": {}, "by_file": {}}
    for case in root.iter("testcase"):
        name = f"{case.get('classname', '')}.{case.get('name', '')}"
        worst = next((child for tag in ("failure", "error", "skipped") for child in case.findall(tag)), None)
        state = "passed" if worst is None else "skipped" if worst.tag == "skipped" else "failed"
        found[state] += 1
        file = case.get("classname", "").rpartition("tests.")[2]
        found["by_file"].setdefault(file, {"passed": 0, "failed": 0, "skipped": 0})[state] += 1
        if worst is not None and state == "failed":
            found["failures"][name] = (worst.get("message") or "").splitlines()[:2]
    return found
