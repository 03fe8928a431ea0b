"""``export --int8``: 8-bit ONNX whose figures, and the float program's, are those of the files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import tiny_data
from support.detectors import detection_tables
from support.task_support import task_recipe
from torch import Tensor

from stillhouse import Recipe, StillhouseError, evaluate, train
from stillhouse.cli import main
from stillhouse.students.formats import read_onnx
from stillhouse.students.quantization import _list_inputs, _run, export_int8

pytestmark = pytest.mark.usefixtures("in_tests")
onnx = pytest.importorskip("onnx")


def test_the_figures_are_those_of_the_two_programs(trained: Path, tmp_path: Path):
    done = export_int8(trained, tmp_path / "s.onnx")
    measured = evaluate(trained, split=done.split).metrics[done.split]
    for name, value in done.float_metrics.items():
        assert value == pytest.approx(measured[name], abs=1e-5)
    model = onnx.load(tmp_path / "s.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}
    assert onnx.TensorProto.INT8 in {weight.data_type for weight in model.graph.initializer}
    told = json.loads(next(p.value for p in model.metadata_props if p.key == "stillhouse"))
    assert told["quantization"]["metrics"] == {
        "split": done.split,
        "float": done.float_metrics,
        "int8": done.int8_metrics,
    }
    x, labels = tiny_data()[done.split].tensors
    info = json.loads((trained / "lock.json").read_text())["data_info"]
    mean, std = (torch.tensor(info[key]).reshape(-1, 1, 1) for key in ("mean", "std"))
    found = read_onnx(tmp_path / "s.onnx")((x - mean) / std)[0]
    accuracy = (found.argmax(1) == labels).double().mean()
    assert done.int8_metrics["accuracy"] == pytest.approx(float(accuracy), abs=1e-9)
    assert [file.name for file in tmp_path.iterdir()] == ["s.onnx"]


def test_a_fixed_batch_and_raw_inputs(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["export", str(trained), "--to", str(tmp_path / "s.onnx"), "--int8", "--batch", "5", "--with-preprocessing"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "int8 onnx" in shown
    assert "accuracy" in shown
    assert main(words) == 2
    assert "the file exists already (--force writes over it)" in capsys.readouterr().err
    assert main([*words, "--force", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    dynamic = export_int8(trained, tmp_path / "any.onnx")
    assert told["float_metrics"]["loss"] == pytest.approx(dynamic.float_metrics["loss"], abs=1e-5)
    assert told["calibration_samples"] % 5 == 0


def test_a_program_of_one_batch_answers_any_number():
    calls: list[int] = []

    def program(x: Tensor) -> list[Tensor]:
        calls.append(len(x))
        return [x + 1]

    x = torch.arange(14.0).reshape(7, 2)
    assert torch.equal(_run(program, x, 3), x + 1)
    assert calls == [3, 3, 3]


def test_maps_are_quantized_too(tmp_path: Path):
    train(task_recipe("segmentation", teacher=None, run__epochs=1), out=tmp_path / "run")
    done = export_int8(tmp_path / "run", tmp_path / "s.onnx")
    assert 0 <= done.int8_metrics["miou"] <= 1
    assert abs(done.int8_metrics["loss"] - done.float_metrics["loss"]) < 0.05


def test_what_cannot_be_quantized_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", str(trained), "--to", str(tmp_path / "s.pt2"), "--int8"]) == 2
    assert "--int8: writes ONNX alone (--to student.onnx)" in capsys.readouterr().err
    train(Recipe.from_dict(detection_tables("support.detectors:small_ssd")), out=tmp_path / "boxes")
    with pytest.raises(StillhouseError, match="--int8: needs a student whose output is one tensor"):
        export_int8(tmp_path / "boxes", tmp_path / "s.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["boxes"]


class Sorted:
    """900 inputs in the order of their classes."""

    info = SimpleNamespace(sizes={"val": 900})

    def example(self, n: int, split: str) -> Any:
        assert split == "val"
        rows = torch.linspace(0, 899, n).long()
        return SimpleNamespace(input=(rows // 300).float()[:, None])


@pytest.mark.parametrize(("batch", "sizes"), [(None, [256]), (100, [100, 100]), (600, [600])])
def test_what_is_calibrated_on_is_spread_over_the_split(batch: int | None, sizes: list[int]):
    found = _list_inputs(Sorted(), "val", lambda x: x, batch)  # type: ignore[arg-type]
    assert list(map(len, found)) == sizes
    counts = torch.cat(found).flatten().long().bincount(minlength=3)
    assert counts.min() > 0.1 * counts.sum()


def test_a_batch_that_the_split_has_not_is_refused():
    with pytest.raises(StillhouseError, match="at least one whole batch"):
        _list_inputs(Sorted(), "val", lambda x: x, 901)  # type: ignore[arg-type]
