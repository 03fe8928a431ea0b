"""`stillhouse evaluate`: the numbers of the training again, by class, and what it says of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import FEATURES, FIVE, TinyNet, recipe, same_state, tiny_data
from torch.utils.data import TensorDataset

from stillhouse import (
    Plugin,
    Recipe,
    StillhouseError,
    StillhouseWarning,
    evaluate,
    hookimpl,
    load_student,
    plugin,
    train,
)
from stillhouse.cli import main

pytestmark = pytest.mark.usefixtures("in_tests")


def two_classes() -> TensorDataset:
    """Data of another number of classes."""
    return TensorDataset(torch.rand(20, 1, 6, 6), torch.arange(20) % 2)


def colour_data() -> dict[str, TensorDataset]:
    """tiny_data with three channels."""
    return {split: TensorDataset(d.tensors[0].repeat(1, 3, 1, 1), d.tensors[1]) for split, d in tiny_data().items()}


def test_the_numbers_are_those_of_the_summary(trained: Path):
    summary = json.loads((trained / "summary.json").read_text())
    found = evaluate(trained, split="all", weights="last")
    assert found.step == summary["steps"]
    assert {split: found.metrics[split] for split in ("val", "test")} == summary["metrics"]
    assert found.samples == {"train": 24, "val": 9, "test": 9}
    best = evaluate(trained, split="val")
    assert (best.weights, best.step) == ("best", summary["best"]["epoch"] * 3)
    assert best.metrics["val"] == summary["history"][summary["best"]["epoch"] - 1]


@pytest.mark.parametrize(
    "changes", [{"run__precision": "bfloat16"}, {"ema": {"decay": 0.5, "evaluate": "instead"}}], ids=str
)
def test_they_are_so_in_other_precision_and_with_averaged_weights(changes: dict[str, Any], tmp_path: Path):
    result = train(recipe(**changes), out=tmp_path / "run")
    found = evaluate(tmp_path / "run", split="all", weights="last")
    assert {split: found.metrics[split] for split in ("val", "test")} == result.metrics
    if "ema" in changes:
        assert same_state(load_student(tmp_path / "run", weights="last").state_dict(), result.student.state_dict())


def test_averaged_weights_beside_the_trained_ones(trained: Path, tmp_path: Path):
    result = train(recipe(ema={"decay": 0.5, "evaluate": "beside"}), out=tmp_path / "run")
    plain, averaged = (evaluate(tmp_path / "run", weights="last", averaged=a).metrics["test"] for a in (False, True))
    assert plain == result.metrics["test"]
    assert averaged == result.metrics["test_ema"]
    assert plain != averaged
    with pytest.raises(StillhouseError, match="has no averaged weights"):
        evaluate(trained, averaged=True)


def test_the_numbers_are_those_of_the_plain_student(trained: Path):
    data = tiny_data()
    images, labels = data["test"].tensors
    train_images = data["train"].tensors[0].double()
    mean, std = train_images.mean(), train_images.std(correction=0)
    with torch.no_grad():
        logits = load_student(trained, weights="last")((images - mean.float()) / std.float()).double()
    found = evaluate(trained, weights="last")
    assert found.metrics["test"]["accuracy"] == (logits.argmax(1) == labels).double().mean().item()
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    assert found.metrics["test"]["loss"] == pytest.approx(expected, abs=1e-5)


def test_batch_size_changes_no_number(trained: Path):
    ones = evaluate(trained, batch_size=2).metrics["test"]
    assert ones == pytest.approx(evaluate(trained).metrics["test"], rel=1e-6)


def test_a_plugins_metrics_are_measured_with_its_trained_module(tmp_path: Path):
    from ignite.metrics import Average

    @plugin
    class Counting(Plugin):
        """Counts steps in a buffer, and gives the count as a metric."""

        @hookimpl
        def build(self, assembly: Any) -> torch.nn.Module:
            module = torch.nn.Module()
            module.register_buffer("steps", torch.zeros(()))
            return module

        @hookimpl
        def optimizer_stepped(self, step: Any) -> None:
            step.module(self).steps += 1

        @hookimpl
        def metrics(self, assembly: Any) -> dict[str, Any]:
            return {"steps": Average(output_transform=lambda _: assembly.module(self).steps.item())}

    result = train(recipe(checkpoints={"best": False}), plugins=[Counting()], out=tmp_path / "run")
    found = evaluate(tmp_path / "run", plugins=[Counting()])
    assert found.metrics["test"] == result.metrics["test"]
    assert found.metrics["test"]["steps"] == 6
    with pytest.warns(
        StillhouseWarning, match=r"without the plugins' own metrics.*no installed plugin is called 'counting'"
    ):
        without = evaluate(tmp_path / "run")
    assert without.metrics["test"]["accuracy"] == found.metrics["test"]["accuracy"]


def test_the_teacher_is_neither_trained_nor_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    teacher = recipe(run__name="evaluated-without").to_dict()
    result = train(recipe(FEATURES, FIVE["projector"], teacher={"recipe": teacher}), out=tmp_path / "run")
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "empty"))
    assert evaluate(tmp_path / "run", weights="last").metrics["test"] == result.metrics["test"]
    assert not (tmp_path / "empty").exists()


def test_a_student_from_python_is_handed_over_again(tmp_path: Path):
    result = train(recipe(checkpoints={"best": False}), student=TinyNet(width=5), out=tmp_path / "run")
    assert evaluate(tmp_path / "run", student=TinyNet(width=5)).metrics["test"] == result.metrics["test"]
    with pytest.raises(StillhouseError, match=r"the run's student, .*load_student.*student=module"):
        evaluate(tmp_path / "run")
    with pytest.raises(StillhouseError, match="does not fit the model"):
        evaluate(tmp_path / "run", student=TinyNet(width=4))


def test_metrics_by_class_are_shown_by_class(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from ignite.metrics import ConfusionMatrix

    from stillhouse.tasks import Classification

    plain = Classification.metrics

    def metrics(self: Any, data: Any) -> dict[str, Any]:
        matrix = ConfusionMatrix(data.classes, output_transform=lambda s: (s["output"], s["target"]))
        return {**plain(self, data), "hits": matrix.diag() / matrix.sum(1)}

    monkeypatch.setattr(Classification, "metrics", metrics)
    assert main(["evaluate", str(trained), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    hits = told["per_class"]["test"]["hits"]
    assert len(hits) == 3
    assert np.mean(hits) == pytest.approx(told["metrics"]["test"]["accuracy"])  # three of each class
    assert main(["evaluate", str(trained)]) == 0
    text = capsys.readouterr().out
    assert "test, by class" in text
    assert "hits" in text


BAD: dict[str, tuple[list[str], str]] = {
    "no such folder": (["{runs}/fiv"], "folder not found (did you mean '{runs}/five'?)"),
    "no run": (["{tmp}"], "is not a run folder: it has no recipe.toml"),
    "a folder of runs": (["{runs}"], "it has no recipe.toml (known: '{runs}/five')"),
    "a file": (["{runs}/five/recipe.toml"], "must be a run's folder, got a file"),
    "split": (["{runs}/five", "--split", "tset"], "--split: unknown split 'tset' (did you mean 'test'?)"),
    "classes": (
        ["{runs}/five", "--data", "test_evaluation:two_classes"],
        "must have the student's 3 classes, got 2",
    ),
    "channels": (
        ["{runs}/five", "--data", "test_evaluation:colour_data"],
        "must have the training's shape (1, 6, 6), got (3, 6, 6) (--set data.channels=1)",
    ),
    "no data": (["{runs}/five", "--data", "folder:/nowhere"], "folder not found: /nowhere"),
    "no recipe": (["{runs}/five", "--data", "nowhere.toml"], "nowhere.toml: file not found"),
    "another run": (
        ["{runs}/five", "--set", "student.args.width=9"],
        "--set: must be data.KEY=VALUE, run.base=... or run.threads=..., got 'student.args.width=9'",
    ),
    "unknown key": (["{runs}/five", "--set", "data.bach_size=9"], "did you mean 'batch_size'"),
    "batch": (["{runs}/five", "--batch-size", "0"], "data.eval_batch_size: must be >= 1, got 0"),
    "device": (["{runs}/five", "--device", "cuda:77"], "must be a device of this machine, got 'cuda:77'"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_said_clearly(what: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments, says = BAD[what]
    places = {"runs": str(trained.parent), "tmp": str(tmp_path)}
    assert main(["evaluate", *(a.format(**places) for a in arguments)]) == 2
    printed = capsys.readouterr()
    assert says.format(**places) in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_runs_without_checkpoints_say_so(trained: Path, tmp_path: Path):
    train(recipe(checkpoints={"best": False}), out=tmp_path / "last")
    with pytest.raises(StillhouseError, match=r"has no best weights.*--weights last"):
        evaluate(tmp_path / "last", weights="best")
    for file in (tmp_path / "last" / "checkpoints").iterdir():
        file.unlink()
    with pytest.raises(StillhouseError, match=r"no checkpoint yet.*--resume"):
        evaluate(tmp_path / "last")


def test_an_older_lock_is_made_up_for_from_the_data(trained: Path, tmp_path: Path):
    import shutil

    shutil.copytree(trained, tmp_path / "old")
    lock = json.loads((tmp_path / "old" / "lock.json").read_text())
    del lock["data_info"]
    (tmp_path / "old" / "lock.json").write_text(json.dumps(lock))
    assert evaluate(tmp_path / "old").metrics == evaluate(trained).metrics


def test_the_lock_has_what_is_known_of_the_data(trained: Path):
    info = json.loads((trained / "lock.json").read_text())["data_info"]
    images = tiny_data()["train"].tensors[0].double()
    assert info["mean"] == pytest.approx([images.mean().item()])
    assert info["std"] == pytest.approx([images.std(correction=0).item()])
    assert (info["classes"], info["input_shape"]) == (3, [1, 6, 6])
    assert Recipe.load(trained / "recipe.toml").data.normalize == "data"
