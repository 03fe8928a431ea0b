"""The demo runs to its end, and says what it has measured."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

DEMO = Path(__file__).parents[1] / "docs" / "demo.py"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The script with two seeds, one epoch a run and a teacher of one epoch, in a folder of its own."""
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    teacher = (DEMO.parent / "recipes" / "digits-teacher.toml").read_text()
    tmp_path.joinpath("teacher.toml").write_text(re.sub(r"epochs = \d+", "epochs = 1", teacher, count=1))
    quick = [f"teacher.recipe={tmp_path / 'teacher.toml'}", "run.epochs=1", "schedule.warmup=0"]
    load = module.load_recipe

    def load_quick(path: Path, overrides: list[str] | None = None, **rest: Any) -> Any:
        return load(path, overrides=[*(overrides or []), *quick], **rest)

    monkeypatch.setattr(module, "load_recipe", load_quick)
    monkeypatch.setattr(module, "SEEDS", range(2))
    monkeypatch.chdir(tmp_path)
    return module


def test_the_demo_trains_its_pairs_and_shows_their_mean(demo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert demo.main() == 0
    said = capsys.readouterr().out
    assert "teacher, on all training images:" in said
    rows = re.findall(r"^\s*([01])\s+([\d.]+)\s+([\d.]+)\s+([+-][\d.]+)\s*$", said, re.MULTILINE)
    assert [seed for seed, *_ in rows] == ["0", "1"]
    for _, alone, distilled, difference in rows:
        assert float(difference) == pytest.approx(float(distilled) - float(alone), abs=0.011)
    mean = re.search(r"mean\s+[\d.]+\s+[\d.]+\s+([+-][\d.]+) ±", said)
    assert mean is not None
    assert float(mean[1]) == pytest.approx(sum(float(row[3]) for row in rows) / 2, abs=0.011)
    assert {folder.name for folder in tmp_path.joinpath("runs").iterdir()} == {"demo-alone", "demo-distilled"}
