"""`stillhouse export`: each format computes what the student computes, and says whose it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import FEATURES, FIVE, TinyNet, recipe, same_state, tiny_data
from torch import Tensor, nn

from stillhouse import Plugin, StillhouseError, export, hookimpl, load_student, plugin, train
from stillhouse.cli import main

pytestmark = pytest.mark.usefixtures("in_tests")

FILES = ["s.safetensors", "s.pt2", "s.onnx"]


@plugin
class Scaled(Plugin):
    """Learns a scale of the logits in training, and folds it into the head."""

    @hookimpl
    def build(self, assembly: Any) -> nn.Module:
        module = nn.Module()
        module.scale = nn.Parameter(torch.tensor(1.0))
        return module

    @hookimpl
    def losses(self, step: Any) -> dict[str, Tensor]:
        return {"": (step.module(self).scale - 3.0).square()}

    weight: float = 1.0

    @hookimpl
    def export(self, assembly: Any, student: nn.Module) -> nn.Module:
        assert assembly.teacher is None or not assembly.teacher.training
        scale = assembly.module(self).scale.detach()
        student.head.weight.data.mul_(scale)
        student.head.bias.data.mul_(scale)
        return student


@plugin
class Capped(Plugin):
    """Puts another module in the student's place."""

    @hookimpl
    def export(self, assembly: Any, student: nn.Module) -> nn.Module:
        return nn.Sequential(student, nn.Tanh())


class Tied(nn.Module):
    """Two names for one weight, and a dict for an output."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(36, 36, bias=False)
        self.second = nn.Linear(36, 36, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(36, num_classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.second(torch.relu(self.first(x.flatten(1))))
        return {"features": x, "logits": self.head(x)}


def run_file(path: Path, x: Tensor) -> Tensor:
    """What an exported program gives, read without this package."""
    if path.suffix == ".pt2":
        with torch.no_grad():
            return torch.export.load(path).module()(x)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": x.numpy()})
    return torch.from_numpy(found)


def about(path: Path) -> dict[str, Any]:
    """The metadata of a file, read without this package."""
    if path.suffix == ".pt2":
        extra = {"stillhouse.json": ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra["stillhouse.json"])
    if path.suffix == ".onnx":
        import onnx

        return json.loads(next(p.value for p in onnx.load(path).metadata_props if p.key == "stillhouse"))
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["stillhouse"])


def test_load_student_is_what_training_gave(tmp_path: Path):
    result = train(recipe(*FIVE.values(), checkpoints={"best": False}), out=tmp_path / "run")
    student = load_student(tmp_path / "run")
    assert same_state(student.state_dict(), result.student.state_dict())
    assert not student.training


@pytest.mark.parametrize("file", FILES[1:])
def test_programs_compute_what_the_student_computes(file: str, trained: Path, tmp_path: Path):
    pytest.importorskip("onnxruntime") if file.endswith("onnx") else None
    done = export(trained, tmp_path / file)
    assert (done.samples, done.split, done.weights) == (8, "test", "best")
    assert done.difference <= done.tolerance
    assert [p.name for p in tmp_path.iterdir()] == [file]
    student = load_student(trained)
    for n in (1, 2, 24):  # the number of samples is open
        x = tiny_data()["train"].tensors[0][:n]
        with torch.no_grad():
            torch.testing.assert_close(run_file(tmp_path / file, x), student(x), rtol=1e-4, atol=1e-5)
    told = about(tmp_path / file)
    assert told["model"] == "support:TinyNet"
    assert told["batch"] == "any"
    assert told["mean"] == json.loads((trained / "lock.json").read_text())["data_info"]["mean"]


@pytest.mark.parametrize("file", FILES[1:])
def test_preprocessing_can_be_part_of_the_program(file: str, trained: Path, tmp_path: Path):
    export(trained, tmp_path / file, with_preprocessing=True, batch=4)
    told = about(tmp_path / file)
    assert told["input"] == "0 to 1"
    raw = tiny_data()["val"].tensors[0][:4]
    with torch.no_grad():
        wanted = load_student(trained)((raw - told["mean"][0]) / told["std"][0])
    torch.testing.assert_close(run_file(tmp_path / file, raw), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(Exception, match=r"(?i)shape|dimension|size"):  # four samples were asked for
        run_file(tmp_path / file, raw[:3])


def test_safetensors_hold_the_weights_and_say_whose(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from safetensors.torch import load_file

    done = export(trained, tmp_path / "s.safetensors", weights="last")
    assert done.difference == 0
    assert same_state(load_file(tmp_path / "s.safetensors"), load_student(trained, weights="last").state_dict())
    told = about(tmp_path / "s.safetensors")
    assert (told["model"], told["args"], told["classes"]) == ("support:TinyNet", {"width": 4}, 3)
    assert told["task"]["name"] == "classification"
    assert (tmp_path / "s.safetensors").stat().st_mode & 0o044 == 0o044  # others may read it as any other file
    # A file may name any code: what is not known is handed over, or trusted.
    monkeypatch.delenv("STILLHOUSE_TRUST")
    with pytest.raises(StillhouseError, match=r"code is not run.*student=module"):
        load_student(tmp_path / "s.safetensors")
    again = load_student(tmp_path / "s.safetensors", student=TinyNet(width=4))
    assert same_state(again.state_dict(), load_student(trained, weights="last", trust=True).state_dict())


@pytest.mark.parametrize("model", ["stillhouse.models:mlp", "mlp"])
def test_our_own_models_are_built_again_from_the_file_alone(model: str, tmp_path: Path):
    whole = recipe(student={"model": model, "args": {"width": 8}}, run__epochs=1)
    train(whole, out=tmp_path / "run")
    export(tmp_path / "run", tmp_path / "s.safetensors")
    x = tiny_data()["test"].tensors[0]
    with torch.no_grad():
        found, wanted = load_student(tmp_path / "s.safetensors")(x), load_student(tmp_path / "run")(x)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("model", ["lines:biased", "line", "lines-dist:lines:biased", "transformers:AutoModel"])
def test_a_file_makes_no_other_distribution_run(
    model: str, trained: Path, tmp_path: Path, fake_distribution: Any, monkeypatch: pytest.MonkeyPatch
):
    from safetensors.torch import load_file, save_file

    points = {"lines": "lines_b:LINES", "line": "lines_b:line"}
    fake_distribution("lines-dist", points, "raise SystemExit", group="stillhouse.models")
    export(trained, tmp_path / "s.safetensors")
    monkeypatch.delenv("STILLHOUSE_TRUST")
    told = json.dumps({**about(tmp_path / "s.safetensors"), "model": model})
    save_file(load_file(tmp_path / "s.safetensors"), tmp_path / "t.safetensors", {"stillhouse": told})
    with pytest.raises(StillhouseError, match="other code is not run"):
        load_student(tmp_path / "t.safetensors")


def test_an_export_is_a_teachers_checkpoint(trained: Path, tmp_path: Path):
    export(trained, tmp_path / "s.safetensors")
    teacher = {"model": "support:TinyNet", "args": {"width": 4}, "checkpoint": str(tmp_path / "s.safetensors")}
    assert train(recipe(FIVE["logits"], teacher=teacher, run__epochs=1), write=False).metrics["val"]["loss"] > 0


@pytest.mark.parametrize("file", FILES)
def test_tied_weights_and_outputs_in_a_dict(file: str, tmp_path: Path):
    train(recipe(student={"model": "test_export:Tied"}, run__epochs=1), out=tmp_path / "run")
    done = export(tmp_path / "run", tmp_path / file)
    assert done.difference <= done.tolerance
    if file != "s.safetensors":
        x = tiny_data()["test"].tensors[0]
        with torch.no_grad():
            wanted = load_student(tmp_path / "run")(x)["logits"]
        torch.testing.assert_close(run_file(tmp_path / file, x), wanted, rtol=1e-4, atol=1e-5)


def test_plugins_fold_with_their_trained_modules_and_without_a_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    teacher = {"recipe": recipe(run__name="folded-without").to_dict()}
    plain = recipe(teacher=teacher, optimizer__lr=0.5, checkpoints={"best": False})
    features = [Scaled()]
    result = train(plain, plugins=features, out=tmp_path / "run")
    scale = torch.load(next((tmp_path / "run" / "checkpoints").glob("last_*")), weights_only=True)["model"][
        "plugins.plugin_scaled.scale"
    ]
    assert scale != 1.0
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "empty"))
    folded = load_student(tmp_path / "run", plugins=[Scaled()])
    assert same_state(folded.state_dict(), result.student.state_dict())
    bare = load_student(tmp_path / "run", fold_plugins=False)
    torch.testing.assert_close(folded.head.weight, bare.head.weight * scale)
    assert not (tmp_path / "empty").exists()
    with pytest.raises(StillhouseError, match="no installed plugin is called 'scaled'") as caught:
        load_student(tmp_path / "run")
    assert "--no-fold" in caught.value.__notes__[0]


def test_a_plugin_may_make_another_model_of_it(tmp_path: Path):
    train(recipe(run__epochs=1), plugins=[Capped()], out=tmp_path / "run")
    done = export(tmp_path / "run", tmp_path / "s.safetensors", plugins=[Capped()])
    assert done.metadata["model"] is None
    with pytest.raises(StillhouseError, match="a recipe cannot build its model"):
        load_student(tmp_path / "s.safetensors")
    export(tmp_path / "run", tmp_path / "s.pt2", plugins=[Capped()])
    x = tiny_data()["test"].tensors[0]
    with torch.no_grad():
        wanted = load_student(tmp_path / "run", fold_plugins=False)(x).tanh()
    torch.testing.assert_close(run_file(tmp_path / "s.pt2", x), wanted)


def test_a_student_from_python_is_handed_over_again(tmp_path: Path):
    result = train(recipe(FEATURES, FIVE["projector"]), student=TinyNet(width=4), out=tmp_path / "run")
    assert result.folder is not None
    done = export(tmp_path / "run", tmp_path / "s.pt2", student=TinyNet(width=4))
    assert done.metadata["model"] is None
    with pytest.raises(StillhouseError, match=r"student, TinyNet, came from Python"):
        export(tmp_path / "run", tmp_path / "t.pt2")


def test_the_command_says_what_it_wrote(trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["export", str(trained), "--to", str(tmp_path / "s.onnx")]) == 0
    printed = capfd.readouterr()
    assert "takes any number of samples" in printed.out
    assert "checked on 8 inputs of the split 'test'" in printed.out
    assert printed.err == ""  # the tracers talk about their own insides


def test_the_json_says_one_thing_of_the_batch(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for words, batch in (([], "any"), (["--batch", "3"], 3)):
        assert main(["export", str(trained), "--to", str(tmp_path / "s.pt2"), "--json", "--force", *words]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["batch"] == told["metadata"]["batch"] == batch
