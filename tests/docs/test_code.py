"""The Python of the pages runs: plugins train, tests pass, exported files are read."""

from __future__ import annotations

import ast
import inspect
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support import FEATURES, FIVE, TinyNet, recipe, tiny_data
from support.imports import ROOT
from support.pages import block, fences, short

from stillhouse import export, load_student, prepare, train
from stillhouse.config.teacher import TeacherSpec
from stillhouse_features import Features


def test_python_blocks_are_python():
    found = list(fences("python"))
    assert len(found) > 5
    for page, text in found:
        compile(text, short(page), "exec")


def test_what_the_python_of_the_pages_imports_of_ours_is_there(documented_plugins: dict[str, str]):
    for page, text in fences("python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stillhouse"):
                module = import_module(node.module or "")
                for name in node.names:
                    assert hasattr(module, name.name), f"{short(page)}: {node.module} has no {name.name}"


def run_block(page: str, part: str) -> dict[str, Any]:
    """Run the Python block of ``page`` that contains ``part``; its names."""
    module = sys.modules["documented"] = ModuleType("documented")  # where annotations are looked up
    exec(compile(block(page, "python", part), page, "exec"), vars(module))
    return vars(sys.modules.pop("documented"))


def test_the_task_of_the_page_trains(tmp_path: Path):
    (tmp_path / "turned.py").write_text(block("docs/tasks.md", "python", "class Turned"))
    whole = recipe(
        task={"name": "turned:Turned"},
        teacher=None,
        data__name="sklearn:digits",
        run__base=str(tmp_path),
        run__epochs=1,
    )
    result = train(whole, write=False)
    assert result.metrics["val"]["accuracy"] > 0.3  # four to choose from
    prediction = sys.modules["turned"].Turned().prediction(None, torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert prediction == {"degrees": 90}


def test_the_documented_plugins_are_short_and_train(documented_plugins: dict[str, str]):
    for use, options in (("similarity", {"weight": 2.0}), ("center", {"momentum": 0.5})):
        assert sum(bool(line.strip()) for line in documented_plugins[use].splitlines()) <= 40
        links = {**FEATURES, "distance": "none" if use == "similarity" else "mse"}
        result = train(recipe(links, {"use": use, **options}, {"use": "projector"}), write=False)
        assert use in result.summary["plugins"]
        assert result.metrics["val"]["loss"] > 0


def test_the_tutorials_own_test_passes(documented_plugins: dict[str, str], tmp_path: Path):
    module = ModuleType("tutorial_test")
    exec(compile(block("docs/writing-a-plugin.md", "python", "def test_"), "tutorial", "exec"), vars(module))
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test(**dict.fromkeys(inspect.signature(test).parameters, tmp_path))


def test_the_other_plugins_of_the_pages_train():
    mimic = run_block("docs/writing-a-plugin.md", "class Mimic")["Mimic"](right_only=True)
    quiet = run_block("docs/writing-a-plugin.md", "class Quiet")["Quiet"](layer="body")
    watch = run_block("docs/hooks.md", "class Watch")["Watch"]()
    pair = Features(links=FEATURES["links"], distance="none")
    peer = TeacherSpec(model="support:TinyNet", random=True)
    beside = run_block("docs/writing-a-plugin.md", "class Beside")["Beside"](peer=peer)
    assert train(recipe(), plugins=[mimic, quiet, pair, watch, beside], write=False).summary["plugins"] == [
        "mimic",
        "quiet",
        "features",
        "watch",
        "beside",
    ]


def test_the_guides_mean_teacher_averages_parameters_and_copies_statistics():
    guide = block("docs/writing-a-plugin.md", "python", "class MeanTeacher")
    method = (ROOT / "tests/methods/mean_teacher.py").read_text(encoding="utf-8")
    hooks = guide[guide.index("    @hookimpl") :]
    assert hooks == method[method.index("    @hookimpl") :]  # which is compared with a loop by hand
    made = run_block("docs/writing-a-plugin.md", "class MeanTeacher")["MeanTeacher"](decay=0.5)
    training = prepare(recipe(teacher=None), plugins=[made], write=False)
    training.fit()
    average, student = training.run.module(training.run.plugins[0]), training.run.student
    assert torch.equal(average.norm.running_mean, student.norm.running_mean)
    assert int(average.norm.num_batches_tracked) == int(student.norm.num_batches_tracked) > 0
    assert not torch.equal(average.head.weight, student.head.weight)


def test_the_python_of_the_pages_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    whole = recipe(FEATURES, {"use": "projector"}, run__epochs=4)
    Path("digits-vkd.toml").write_text(whole.to_toml())
    assert run_block("docs/events.md", "Phase.BACKWARD_COMPLETED")["result"].metrics["val"]
    assert "'task': " in capsys.readouterr().out
    assert run_block("docs/recipes.md", "load_recipe")["result"].summary["epochs"] == 5
    assert run_block("docs/your-data.md", "data=TensorDataset")["result"].metrics["val"]


def test_the_functions_of_the_export_page_run_each_format(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    train(recipe(*FIVE.values(), data__normalize="data"), out=tmp_path / "run")
    page = run_block("docs/export.md", "def run_pt2")
    about = run_block("docs/export.md", "def about_onnx")
    x = tiny_data()["test"].tensors[0]
    found = {}
    for suffix in ("pt2", "onnx", "safetensors"):
        path = tmp_path / f"student.{suffix}"
        metadata = export(tmp_path / "run", path).metadata
        x_hat = (x - metadata["mean"][0]) / metadata["std"][0]
        more = [TinyNet()] if suffix == "safetensors" else []
        found[suffix] = page[f"run_{'weights' if more else suffix}"](path, x_hat, *more)
    assert about["about_onnx"](str(tmp_path / "student.onnx")) == metadata
    assert about["about_weights"](str(tmp_path / "student.safetensors")) == metadata
    with torch.no_grad():
        wanted = load_student(tmp_path / "run")(x_hat)
    for suffix, logits in found.items():
        torch.testing.assert_close(torch.as_tensor(logits), wanted, rtol=1e-4, atol=1e-5, msg=suffix)
