"""Every task trains from a recipe, also with features of a teacher, and shows samples; so does one from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import FEATURES
from support.task_support import TASKS, task_recipe
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stillhouse import StillhouseError, prepare, train
from stillhouse.tasks import TaskSpec, build_task

LEARNT = {  # a bound that the untrained student misses and the trained one keeps
    "segmentation": ("miou", 0.6),
    "depth": ("abs_rel", 0.15),
    "image-to-image": ("psnr", 22.0),
    "colourisation": ("psnr", 16.0),
    "denoising": ("psnr", 20.0),
    "super-resolution": ("psnr", 17.0),
    "multi-label": ("loss", 0.2),
    "regression": ("mae", 0.1),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_learns_from_its_recipe(name: str):
    changes = {"teacher": None, "optimizer": {"lr": 3e-2}, "run__epochs": 20}
    if name in ("multi-label", "regression"):
        changes["student"] = {"model": "support:TinyNet", "args": {"width": 8, "dropout": 0.0}}
    result = train(task_recipe(name, **changes), write=False)
    score, bound = LEARNT[name]
    better = score in ("miou", "psnr")
    found, begun = result.metrics["val"][score], result.history[0][score]
    assert (found > bound) if better else (found < bound), (found, begun)
    assert (begun < bound) if better else (begun > bound), (found, begun)


@pytest.mark.parametrize("name", ["segmentation", "depth", "denoising"])
def test_features_of_a_teacher_train_a_dense_student_and_samples_are_shown(name: str, tmp_path: Path):
    recipe = task_recipe(name, FEATURES, {"use": "projector"}, run__figures=True)
    result = train(recipe, out=tmp_path / "run")
    assert len(result.history) == 2
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert "task/samples" in events.Tags()["images"]
    assert len(events.Images("task/samples")) == 1  # of a run this short at its end alone


def test_a_wrong_model_is_refused_before_training():
    with pytest.raises(StillhouseError, match="decoder"):
        prepare(task_recipe("segmentation", student={"model": "support:TinyNet"}, teacher=None), write=False)


OWN = '''
"""A task of somebody else's: the share of bright pixels."""

from typing import ClassVar

import attrs
import torch.nn.functional as F
from ignite.metrics import MeanAbsoluteError
from stillhouse.tasks import Task


@attrs.frozen(kw_only=True)
class Brightness(Task):
    """The share of pixels above a threshold.

    Attributes:
        threshold: 0 to 1.
    """

    score: ClassVar[str] = "mae"
    score_mode: ClassVar[str] = "min"
    takes: ClassVar[tuple[str, ...]] = ("class", "none", "image")

    threshold: float = 0.5

    def outputs(self, data):
        return 1

    def sample(self, image, target):
        return image, (image > self.threshold).float().mean().reshape(1)

    def loss(self, output, targets):
        return F.mse_loss(output.float(), targets)

    def metrics(self, data):
        return {"mae": MeanAbsoluteError(lambda state: (state["output"], state["target"]))}


class Broken:
    pass
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe's folder with a task of somebody else's beside it; one, as a module of a name is imported once."""
    made = tmp_path_factory.mktemp("own")
    (made / "my_task.py").write_text(OWN)
    return made


def test_a_task_of_ones_own_trains_by_its_import_path(folder: Path):
    torch.manual_seed(0)
    result = train(
        task_recipe(
            "image-to-image",
            task={"name": "my_task:Brightness", "args": {"threshold": 0.4}},
            student={"model": "torch.nn:Sequential"},
            teacher=None,
            run__base=str(folder),
            run__epochs=5,
            optimizer={"lr": 1e-2},
            data__name="sklearn:digits",
            data__args={},
        ),
        student=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1)),
        write=False,
    )
    assert result.metrics["test"]["mae"] < 0.1
    assert result.history[0]["mae"] > result.history[-1]["mae"]


@pytest.mark.parametrize(
    ("name", "args", "says"),
    [
        ("segmentatoin", {}, "did you mean 'segmentation'"),
        ("my_task:Broken", {}, "must be a subclass"),
        ("my_task:Brightness", {"treshold": 0.1}, r"task\.args\.treshold.*did you mean 'threshold'"),
    ],
)
def test_tasks_that_cannot_be_made(name: str, args: dict, says: str, folder: Path):
    with pytest.raises(StillhouseError, match=says):
        build_task(TaskSpec(name=name, args=args), folder)
