"""Exports that are refused: what computes something else, files that are there, packages that are not; nothing half-written stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import TinyNet, recipe
from torch import Tensor

from stillhouse import StillhouseError, export, load_student, train
from stillhouse.cli import main

pytestmark = pytest.mark.usefixtures("in_tests")

FILES = ["s.safetensors", "s.pt2", "s.onnx"]


class Rough(TinyNet):
    """Draws random numbers whenever it is called."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(3, device=x.device)


class Rowwise(TinyNet):
    """Looks at its own batch's size, so that a traced program keeps to it."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out * (1.0 if int(x.shape[0]) == 8 else 2.0) if torch.compiler.is_compiling() else out


@pytest.mark.parametrize("file", FILES[:2])
def test_what_computes_something_else_is_refused_and_nothing_stays(file: str, tmp_path: Path):
    train(recipe(student={"model": "test_export_refusals:Rough"}, run__epochs=1), out=tmp_path / "run")
    with pytest.raises(StillhouseError, match=r"of the student's, got a difference of .*nothing was written"):
        export(tmp_path / "run", tmp_path / file)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_program_that_keeps_to_its_batch_is_found_out(tmp_path: Path):
    train(recipe(student={"model": "test_export_refusals:Rowwise"}, run__epochs=1), out=tmp_path / "run")
    with pytest.raises(StillhouseError, match="--batch"):
        export(tmp_path / "run", tmp_path / "s.pt2")
    assert export(tmp_path / "run", tmp_path / "s.pt2", batch=8).batch == 8


def test_a_file_that_exists_is_kept(trained: Path, tmp_path: Path):
    path = tmp_path / "s.safetensors"
    path.write_text("precious")
    with pytest.raises(StillhouseError, match=r"exists already .--force"):
        export(trained, path)
    assert path.read_text() == "precious"
    export(trained, path, force=True)
    assert load_student(path, student=TinyNet(width=4)) is not None


def test_missing_packages_are_named(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(StillhouseError, match=r"onnx needs the package onnx.*stillhouse\[onnx\]") as caught:
        export(trained, tmp_path / "s.onnx")
    assert len(caught.value.faults) == 2


BAD: dict[str, tuple[list[str], str]] = {
    "suffix": (["--to", "{tmp}/s.pth"], "unknown suffix '.pth' (.safetensors, .pt2, .onnx"),
    "folder": (["--to", "{tmp}"], "must be a file, got a folder"),
    "no folder": (["--to", "{tmp}/no/s.pt2"], "folder not found: {tmp}/no"),
    "preprocessing": (
        ["--to", "{tmp}/s.safetensors", "--with-preprocessing"],
        "--with-preprocessing: needs a program, and safetensors holds weights",
    ),
    "batch": (["--to", "{tmp}/s.pt2", "--batch", "0"], "--batch: must be >= 1 or dynamic, got 0"),
    "unwritable": (["--to", "/proc/s.pt2"], "/proc"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_said_clearly(what: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments, says = BAD[what]
    assert main(["export", str(trained), *(a.format(tmp=tmp_path) for a in arguments)]) == 2
    printed = capsys.readouterr()
    assert says.format(tmp=tmp_path) in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_export_is_said_to_be(tmp_path: Path):
    (tmp_path / "s.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(StillhouseError, match="damaged"):
        load_student(tmp_path / "s.safetensors")
    with pytest.raises(StillhouseError, match="file not found"):
        load_student(tmp_path / "t.safetensors")
