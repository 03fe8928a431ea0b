"""``stillhouse teacher``: what a file of weights is."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from support import TinyNet, recipe, tables

from stillhouse import Recipe, prepare, train
from stillhouse.cli import main
from stillhouse.teachers.file_report import measure_teacher


@pytest.fixture
def file(tmp_path: Path) -> Path:
    state = {f"module.{key}": value for key, value in TinyNet(width=6).state_dict().items()}
    torch.save({"model": state, "epoch": 4}, tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["teacher", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_file_is_told_without_a_model(file: Path, capsys: pytest.CaptureFixture[str]):
    found = told(capsys, str(file))
    assert (found["prefix"], found["precisions"], found["classes"]) == ("module.", ["float32"], 3)
    assert list(found["tables"]) == ["model"]
    assert main(["teacher", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "prefix     'module.'" in shown
    assert "args = { num_classes = 3 }" in shown


def test_its_lines_load_it_and_its_metrics_are_those_of_the_split(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    own = tables(teacher=None)
    (tmp_path / "own.toml").write_text(tomli_w.dumps(own))
    keys = ("args.width=6", 'normalize="same"', 'classes="same"')
    words = ["--model", "support:TinyNet", *(word for key in keys for word in ("--set", key))]
    found = told(capsys, str(file), *words, "--recipe", str(tmp_path / "own.toml"))
    assert 0.0 <= found["metrics"]["accuracy"] <= 1.0
    assert "the prefix 'module.' taken off every key" in found["notes"]
    lines = Recipe.from_dict({**own, **tomllib.loads(found["lines"])})
    assert lines.teacher is not None
    assert (lines.teacher.model, lines.teacher.args) == ("support:TinyNet", {"width": 6, "num_classes": 3})


def test_a_model_that_takes_no_number_of_classes_is_given_none(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    text = "from support import TinyNet\n\n\ndef build(cfg):\n    return TinyNet(**cfg)\n"
    (tmp_path / "project_of_hers.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["teacher", str(file), "--model", "project_of_hers:build"]
    assert main(words) == 2
    assert "--set args.cfg: missing argument 'cfg' of build" in capsys.readouterr().err
    found = told(capsys, *words[1:], "--set", "args.cfg.width=6", "--set", "args.cfg.num_classes=3")
    assert tomllib.loads(found["lines"])["teacher"]["args"] == {"cfg": {"width": 6, "num_classes": 3}}
    assert "\n[teacher.args.cfg]\nwidth = 6\n" in found["lines"]


def test_a_trained_run_is_measured_as_its_own_validation_split_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    own = recipe(teacher=None, checkpoints={"best": False})
    ended = train(own, out=tmp_path / "run")
    (tmp_path / "own.toml").write_text(own.to_toml())
    found = told(capsys, str(tmp_path / "run"), "--recipe", str(tmp_path / "own.toml"))
    assert found["metrics"] == pytest.approx(ended.metrics["val"])


def test_an_export_says_itself_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("safetensors")
    student = {"model": "stillhouse.models:convnet", "args": {"width": 8}}
    made = {"run": {"epochs": 2}, "data": {"name": "sklearn:digits", "limit": 200}, "student": student}
    result = train(Recipe.from_dict(made), out=tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "net.safetensors")]) == 0
    (tmp_path / "own.toml").write_text(tomli_w.dumps(made))
    capsys.readouterr()
    found = told(capsys, str(tmp_path / "net.safetensors"), "--recipe", str(tmp_path / "own.toml"))
    lines = tomllib.loads(found["lines"])["teacher"]
    assert (lines["model"], lines["args"]) == ("stillhouse.models:convnet", {"width": 8, "num_classes": 10})
    assert "normalize" not in lines
    best = result.summary["best"]["val/accuracy"]
    assert found["metrics"]["accuracy"] == pytest.approx(best)
    with_lines = prepare(Recipe.from_dict({**made, "teacher": lines, "plugins": [{"use": "logits"}]}), write=False)
    teacher = with_lines.run.teacher
    assert measure_teacher(teacher, with_lines.run.task, with_lines.data)["accuracy"] == pytest.approx(best)
    with_lines.close()


def test_a_model_that_it_does_not_fit_is_an_error(file: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["teacher", str(file), "--model", "support:TinyNet", "--set", "args.width=5"]) == 2
    assert "does not fit the model: other shapes: stem.weight: (6, 1, 3, 3) in the file" in capsys.readouterr().err
    assert main(["teacher", str(file.parent / "none.pt")]) == 2
    assert "file not found" in capsys.readouterr().err
