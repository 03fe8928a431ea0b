"""Latency, throughput and size of student, teacher and exported programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support import FIVE, recipe

from stillhouse import StillhouseError, export, train
from stillhouse.cli import main
from stillhouse.students.timing import measure


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timed") / "run"
    train(recipe(*FIVE.values()), out=folder)
    for name in ("student.onnx", "student.pt2"):
        export(folder, folder.parent / name, trust=True)
    return folder


def test_student_teacher_and_programs_stand_side_by_side(run: Path):
    files = [run.parent / "student.onnx", run.parent / "student.pt2"]
    found = measure(run, files, batch=4, seconds=0.02)
    assert [timing.name for timing in found] == ["student", "teacher", *map(str, files)]
    student, teacher, onnx, _ = found
    assert teacher.parameters is not None
    assert student.parameters is not None
    assert teacher.parameters > student.parameters
    assert onnx.parameters is None
    assert onnx.mebibytes == files[0].stat().st_size / 2**20
    assert student.mebibytes > 4 * student.parameters / 2**20
    for timing in found:
        assert 0 < timing.latency_range[0] <= timing.latency <= timing.latency_range[1]
        assert 0 < timing.throughput_range[0] <= timing.throughput <= timing.throughput_range[1]


def test_the_command_prints_a_table_and_what_follows(run: Path, capsys: pytest.CaptureFixture[str]):
    threads = torch.get_num_threads()
    assert main(["bench", str(run), "--batch", "2"]) == 0
    assert torch.get_num_threads() == threads
    said = capsys.readouterr().out
    assert "a second, in batches of 2" in said
    assert "times smaller than its teacher" in said
    assert main(["bench", str(run), "--json", "--batch", "2"]) == 0
    assert [timing["name"] for timing in json.loads(capsys.readouterr().out)] == ["student", "teacher"]


def test_what_cannot_be_measured_is_said(run: Path, tmp_path: Path):
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    for files, options, said in (
        (["none.onnx"], {}, "none.onnx: file not found"),
        (["a.safetensors"], {}, "a.safetensors: must be a program, .onnx or .pt2"),
        ([tmp_path / "broken.onnx"], {}, "broken.onnx: cannot be read"),
        ([], {"batch": 0}, "--batch: must be >= 1, got 0"),
        ([], {"threads": 0}, "--threads: must be >= 1, got 0"),
    ):
        with pytest.raises(StillhouseError) as caught:
            measure(run, files, seconds=0.01, **options)
        assert said in str(caught.value)
    export(run, tmp_path / "eight.onnx", batch=8)
    with pytest.raises(StillhouseError, match=r"eight\.onnx: does not take inputs of \(1, "):
        measure(run, [tmp_path / "eight.onnx"], seconds=0.01)
