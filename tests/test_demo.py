"""The demo runs to its end, and says what it has measured."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stillhouse.cli import main
from stillhouse.terminal import Terminal

DEMO = Path(__file__).parents[1] / "docs" / "demo.py"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The script with two seeds, one epoch a run and a teacher of one epoch, in a folder of its own."""
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    teacher = (DEMO.parent / "recipes" / "digits-simclr.toml").read_text()
    tmp_path.joinpath("teacher.toml").write_text(re.sub(r"epochs = \d+", "epochs = 1", teacher, count=1))
    quick = [f"teacher.recipe={tmp_path / 'teacher.toml'}", "run.epochs=1", "schedule.warmup=0"]
    load = module.load_recipe

    def load_quick(path: Path, overrides: Sequence[str] = (), **rest: Any) -> Any:
        return load(path, overrides=[*overrides, *quick], **rest)

    monkeypatch.setattr(module, "load_recipe", load_quick)
    monkeypatch.setattr(module, "SEEDS", range(2))
    monkeypatch.chdir(tmp_path)
    return module


def test_the_demo_trains_its_arms_and_shows_their_means(demo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert demo.main([]) == 0
    said = capsys.readouterr().out
    number = r"\s+([\d.]+)"
    rows = re.findall(rf"^\s*([01]){number * 3}\s+([+-][\d.]+)\s*$", said, re.MULTILINE)
    assert [seed for seed, *_ in rows] == ["0", "1"]
    found = {arm: [float(row[k]) for row in rows] for k, arm in enumerate(("alone", "distilled", "control"), 1)}
    for k, row in enumerate(rows):
        assert float(row[4]) == pytest.approx(found["distilled"][k] - found["alone"][k], abs=0.011)
    for less in ("alone", "control"):
        gain = re.search(rf"distilled - {less}\s+([+-][\d.]+) ± [\d.]+ ", said)
        assert gain is not None
        expected = sum(a - b for a, b in zip(found["distilled"], found[less], strict=True)) / 2
        assert float(gain[1]) == pytest.approx(expected, abs=0.011)
    runs = tmp_path / "runs" / "demo"
    assert {p.name for p in runs.iterdir()} == {"alone", "distilled", "control", "picture.svg"}
    assert "distilled, mean of 2" in (runs / "picture.svg").read_text()
    told = {folder: json.loads((runs / folder / "seed-1" / "summary.json").read_text()) for folder in found}
    assert {folder: one["metrics"]["test"]["accuracy"] * 100 for folder, one in told.items()} == pytest.approx(
        {arm: values[1] for arm, values in found.items()}, abs=0.006
    )


def test_what_it_says_to_type_next_is_what_the_command_takes(demo: Any, capsys: pytest.CaptureFixture[str]):
    demo.say_next(Terminal(width=300), Path("runs/demo/picture.svg"))
    commands = [
        line.split("stillhouse ", 1)[1].split()
        for line in capsys.readouterr().out.splitlines()
        if "stillhouse " in line
    ]
    assert [words[0] for words in commands] == ["explain", "train", "init"]
    for words in commands[:2]:
        at = words.index("--out") if "--out" in words else len(words)
        assert main(["explain", *words[1:at], *words[at + 2 :]]) == 0
    assert main(["init", "PHOTOGRAPHS"]) == 2, "the folder is the reader's"
    assert "PHOTOGRAPHS: no such file or folder" in capsys.readouterr().err


def test_the_control_is_the_same_method_with_a_teacher_that_was_never_trained(demo: Any):
    distilled, control = (demo.make_recipe(arm, []) for arm in ("distilled", "control"))
    assert control.teacher.random
    assert control.teacher.recipe is None
    assert control.teacher.args == distilled.teacher.recipe["student"]["args"]
    assert [p["use"] for p in control.plugins] == [p["use"] for p in distilled.plugins] == ["tcs"]
    assert demo.make_recipe("alone", []).plugins == ()


def test_the_choice_shows_every_arm_rate_and_weight(
    demo: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name, value in (("RATES", (1e-3, 2e-3)), ("WEIGHTS", (5,)), ("CHOICE_SEEDS", range(1))):
        monkeypatch.setattr(demo, name, value)
    assert demo.main(["--choose"]) == 0
    rows = re.findall(
        r"^\s*(alone|distilled|control)\s+(-|5)\s+[\d.]+\s+[\d.]+\s*$", capsys.readouterr().out, re.MULTILINE
    )
    assert rows == [("alone", "-"), ("distilled", "5"), ("control", "5")]
