"""A run goes on with a copy of its data, wherever it lies and however it is read; with other data it does not."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from support.dense_files import save, scene
from torch.utils.data import TensorDataset

from stillhouse import Recipe, prepare, train
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.teachers.prerequisites import find_prerequisite


class StopError(Exception):
    """In mid-run."""


def images(root: Path) -> Path:
    for c, name in enumerate("ab"):
        for k in range(20):
            save(root / name / f"{k}.png", scene(100 * c + k)[0])
    return root


def recipe(root: Path, **data: Any) -> Recipe:
    return Recipe.from_dict(
        {
            "run": {"epochs": 3, "threads": 1},
            "data": {"name": f"folder:{root}", "batch_size": 16, **data},
            "student": {"model": "stillhouse.models:convnet", "args": {"width": 2}},
        }
    )


def begin(of: Recipe, out: Path) -> None:
    training = prepare(of, plugins=[], out=out)

    def stop() -> None:
        raise StopError

    training.run.trainer.add_event_handler(Events.EPOCH_STARTED(once=3), stop)
    with pytest.raises(StopError):
        training.fit()


def test_a_run_goes_on_with_a_copy_of_its_data_read_in_another_way(tmp_path: Path):
    first = images(tmp_path / "home")
    whole = train(recipe(first), plugins=[], out=tmp_path / "whole").metrics
    begin(recipe(first), tmp_path / "run")
    scratch = tmp_path / "scratch"
    shutil.copytree(first, scratch, copy_function=shutil.copyfile)  # with times of its own
    other = recipe(scratch, workers=1, prefetch=3, cache="none", eval_batch_size=5)
    assert train(other, plugins=[], out=tmp_path / "run", resume=True).metrics["val"] == pytest.approx(whole["val"])


def test_a_run_does_not_go_on_with_another_content(tmp_path: Path):
    first = images(tmp_path / "home")
    begin(recipe(first), tmp_path / "run")
    save(first / "a" / "3.png", scene(77)[0])
    with pytest.raises(StillhouseError, match="the data has changed since the run began"):
        train(recipe(first), plugins=[], out=tmp_path / "run", resume=True)


def test_threads_make_another_run_are_recorded_and_told_of_where_a_run_goes_on(tmp_path: Path):
    first = recipe(images(tmp_path / "home"))
    begin(first, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "lock.json").read_text())["threads"] == 1
    tables = first.to_dict()
    tables["run"]["threads"] = 2
    other = Recipe.from_dict(tables)
    assert other.digest() != first.digest()
    try:
        with pytest.warns(StillhouseWarning, match="the number of threads was 1 and is 2"):
            train(other, plugins=[], out=tmp_path / "run", resume=True)
    finally:
        torch.set_num_threads(1)


def test_a_teacher_that_was_trained_on_a_copy_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = images(tmp_path / "home")
    shutil.copytree(first, tmp_path / "scratch", copy_function=shutil.copyfile)
    found = []
    for root, more in ((first, {}), (tmp_path / "scratch", {"workers": 2}), (first, {"size": 8})):
        tables = recipe(root, **more).to_dict()
        student = Recipe.from_dict({**recipe(first).to_dict(), "teacher": {"recipe": tables}})
        need = find_prerequisite(student, "teacher")
        assert need is not None
        found.append(need.folder)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(("task", "target"), [("regression", None), ("multi-label", 0.5), ("classification", "class")])
@pytest.mark.parametrize("shape", [(4,), (2, 6)])
def test_inputs_that_are_no_images_have_no_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, target: Any, shape: tuple[int, ...]
):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, *shape, generator=generator)
    numbers = x.flatten(1)[:, :2]
    y = numbers if target is None else (numbers > 0).float() if target == 0.5 else (numbers[:, 0] > 0).long()
    module = types.ModuleType("sh_vectors")
    vars(module)["make"] = lambda: {"train": TensorDataset(x, y), "val": TensorDataset(x[:30], y[:30])}
    monkeypatch.setitem(sys.modules, "sh_vectors", module)
    tables = {
        "run": {"epochs": 2, "threads": 1},
        "data": {"name": "sh_vectors:make", "batch_size": 32},
        "task": {"name": task},
        "student": {"model": "stillhouse.models:mlp"},
    }
    result = train(Recipe.from_dict(tables), plugins=[], out=tmp_path / "run")
    assert result.summary["steps_done"] == 6
