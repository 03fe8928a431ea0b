"""A teacher's normalisation, size and channels come from where it was trained, or from the recipe's own table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from support import FEATURES, TinyNet, recipe, tables
from torch import nn

from stillhouse import Recipe, StillhouseError, StillhouseWarning, export, prepare, train
from stillhouse.data import DataInfo
from stillhouse.models import ModelSpec
from stillhouse.models.builder import describe_published
from stillhouse.models.family import ModelRequest, Published
from stillhouse.tasks import Classification
from stillhouse.teachers.inputs import fit_inputs
from stillhouse.teachers.origins import Origin
from stillhouse.training.explanation import describe

NET = {"model": "support:TinyNet", "args": {"width": 6}}
DIGITS = {"name": "sklearn:digits", "batch_size": 64, "limit": 128}
CONVNET = {"model": "stillhouse.models:convnet", "args": {"width": 8}}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def info(shape: tuple[int, ...] = (3, 32, 32), classes: int = 7, **more: Any) -> DataInfo:
    return DataInfo(classes, tuple(map(str, range(classes))), shape, {"train": 10}, "", eval_shape=shape, **more)


def seen_by(training: Any) -> torch.Tensor:
    """What reaches the teacher's first layer for eight samples."""
    seen: list[torch.Tensor] = []
    first = next(m for m in training.run.teacher.modules() if isinstance(m, nn.Conv2d))
    handle = first.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        training.run.teacher(training.data.example(8).input)
    handle.remove()
    return seen[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits at 16x16, normalised by their own mean and deviation."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    data = {**DIGITS, "size": 16, "normalize": "data"}
    train(recipe(teacher=None, student=CONVNET, data=data, run__epochs=1), out=folder)
    return folder


@pytest.mark.parametrize("kind", ["folder", "checkpoint", "checkpoint alone", "export", "recipe"])
def test_a_teacher_of_a_run_gets_its_inputs_as_that_run_had_them(run: Path, tmp_path: Path, kind: str):
    checkpoint = next((run / "checkpoints").glob("last_*.pt"))
    spec: dict[str, Any] = {
        "folder": {**CONVNET, "checkpoint": str(run)},
        "checkpoint": {**CONVNET, "checkpoint": str(checkpoint)},
        "checkpoint alone": {"checkpoint": str(checkpoint)},
        "export": {**CONVNET},
        "recipe": {"recipe": Recipe.load(run / "recipe.toml").to_dict()},
    }[kind]
    if kind == "export":
        spec["checkpoint"] = str(export(run, tmp_path / "t.safetensors").path)
    own = prepare(Recipe.load(run / "recipe.toml"), write=False)
    made = recipe({"use": "logits"}, data={**DIGITS, "normalize": "none"}, student=CONVNET, teacher=spec)
    training = prepare(made, write=False)
    small = training.data.example(8).input
    wanted = (
        torch.nn.functional.interpolate(small, (16, 16), mode="bilinear") - own.run.data.mean[0]
    ) / own.run.data.std[0]
    torch.testing.assert_close(seen_by(training), wanted)
    note = describe(training)["teacher"]["notes"][0]
    assert "resized to 16x16, normalised by mean" in note


def test_the_recipes_own_table_says_otherwise(run: Path):
    more = {"normalize": {"mean": [0.25], "std": [0.5]}, "size": 12}
    made = recipe(data={**DIGITS, "normalize": "none"}, student=CONVNET, teacher={"checkpoint": str(run), **more})
    training = prepare(made, write=False)
    small = training.data.example(8).input
    wanted = (torch.nn.functional.interpolate(small, (12, 12), mode="bilinear") - 0.25) / 0.5
    torch.testing.assert_close(seen_by(training), wanted)
    same = {"normalize": "same", "size": "same"}
    made = recipe(data={**DIGITS, "normalize": "none"}, student=CONVNET, teacher={"checkpoint": str(run), **same})
    training = prepare(made, write=False)
    assert torch.equal(seen_by(training), training.data.example(8).input)


def test_a_file_that_says_nothing_gets_the_students_inputs_with_a_warning(tmp_path: Path):
    save_file(TinyNet(width=6).state_dict(), tmp_path / "teacher.safetensors")
    spec = {**NET, "checkpoint": str(tmp_path / "teacher.safetensors")}
    with pytest.warns(
        StillhouseWarning, match=r"teacher: nothing says how its inputs were normalised.*teacher.normalize = "
    ):
        training = prepare(recipe(FEATURES, {"use": "projector"}, teacher=spec), write=False)
    assert torch.equal(seen_by(training), training.data.example(8).input)
    normalize = {"mean": [0.5], "std": [0.25]}
    training = prepare(recipe(teacher={**spec, "normalize": normalize}), write=False)
    torch.testing.assert_close(seen_by(training), (training.data.example(8).input - 0.5) / 0.25)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            {"normalize": "data"},
            r"teacher\.normalize: must be one of 'same', 'none', 'imagenet' or a table with mean, std",
        ),
        ({"normalize": {"mean": [0.5], "std": [0.0]}}, r"teacher\.normalize\.std: must be > 0, got 0\.0"),
        ({"normalize": {"mean": [0.5], "std": [1.0, 1.0]}}, r"teacher\.normalize\.std: must have one number a channel"),
        ({"size": 0}, r"teacher\.size: must be >= 1, got 0"),
        ({"classes": ["a", "a"]}, r"teacher\.classes: must be distinct, got twice: a"),
    ],
)
def test_what_cannot_be_meant_is_refused(table: dict[str, Any], said: str):
    with pytest.raises(StillhouseError, match=said):
        Recipe.from_dict(tables(teacher={**NET, "random": True, **table}))


def test_maps_of_a_teacher_of_another_size_come_back_to_the_students():
    model = nn.Conv2d(1, 2, 1)
    fit_inputs(model, info((1, 16, 8)), info((1, 8, 8)))
    from stillhouse.loop.tapped_model import TappedModel
    from stillhouse.teachers.outputs import fit_outputs

    assert fit_outputs(model, ("0", "1"), ("0", "1"), "teacher") == []
    tapped = TappedModel(model, "teacher", Classification(), [""], frozen=True)
    side = tapped(torch.rand(2, 1, 8, 8))
    assert side.features[""].shape == (2, 2, 16, 8)
    assert side.output.shape == (2, 2, 8, 8)
    tapped.taps.remove()


def test_vectors_are_converted_as_well_and_of_other_lengths_refused():
    own, other = info((3,), mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0)), info((3,))
    teacher = nn.Sequential(nn.Identity())
    fit_inputs(teacher, own, other)
    x = torch.rand(4, 3)
    torch.testing.assert_close(teacher(x), (x - torch.tensor(own.mean)) / torch.tensor(own.std))
    with pytest.raises(
        StillhouseError, match="the teacher was trained on 3 components, and the student's inputs have 4"
    ):
        fit_inputs(nn.Identity(), own, info((4,)))
    with pytest.raises(StillhouseError, match=r"trained on inputs of shape \(3,\), and the student's are \(1, 8, 8\)"):
        fit_inputs(nn.Identity(), own, info((1, 8, 8)))


# --- published models: what their own configurations say, without a download --------------------------------------------


def published(model: str, data: DataInfo | None = None, base: Path | None = None, **args: Any) -> Published | None:
    return describe_published(ModelRequest(ModelSpec(model=model, args=args), data or info(), "teacher", base))


def test_torchvisions_weights_say_how_they_were_trained():
    told = published("torchvision:resnet18")
    assert told is not None
    assert (told.mean, told.std, told.size, told.channels, told.outputs) == (*IMAGENET, (224, 224), 3, 1000)
    assert told.class_names[:2] == ("tench", "goldfish")
    segmentation, detection = published("torchvision:fcn_resnet50"), published("torchvision:fasterrcnn_resnet50_fpn")
    assert segmentation is not None
    assert (segmentation.mean, segmentation.size, segmentation.outputs) == (IMAGENET[0], None, 21)
    assert detection is not None
    assert (detection.mean, detection.size) == ((), None)  # it normalises and resizes by itself
    assert published("torchvision:nothing") is None
    assert published("support:TinyNet") is None


def test_timms_configuration_says_how_its_weights_were_trained():
    pytest.importorskip("timm")
    told = published("timm:vit_base_patch16_224.augreg_in21k")
    assert told is not None
    assert (told.mean, told.std, told.size) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (224, 224))
    assert told.outputs == 21843


def test_a_folder_of_transformers_says_how_its_weights_were_trained(tmp_path: Path):
    pytest.importorskip("transformers")
    config = {"model_type": "vit", "image_size": 48, "num_channels": 3, "id2label": {"0": "cat", "1": "dog"}}
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    args = {"source": "weights"}
    told = published("transformers:ViTForImageClassification", base=tmp_path, **args)
    assert told == Published("its own configuration", None, (), 3, (48, 48), 2, ("cat", "dog"))
    processor = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 40, "width": 32}}
    (tmp_path / "weights" / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    told = published("transformers:ViTForImageClassification", base=tmp_path, **args)
    assert told is not None
    assert (told.mean, told.std, told.size) == ((0.5,) * 3, (0.25,) * 3, (40, 32))


def test_published_weights_decide_inputs_and_a_new_head_is_not_to_be_read():
    told = Published("it", *IMAGENET, 3, (224, 224), 1000, tuple(map(str, range(1000))))
    grey = info((1, 8, 8), mean=(0.3,), std=(0.3,))
    own = Origin.of_published(told, grey, {}, 7)
    assert (own.info.input_shape, own.info.mean) == ((3, 224, 224), IMAGENET[0])
    assert own.refusal == "the published weights are for 1000 classes, and its last layer for 7 is new and untrained"
    assert own.names is None
    narrow = Origin.of_published(told, grey, {"img_size": 64, "in_chans": 1}, 7)
    assert narrow.info.input_shape == (1, 64, 64)
    assert narrow.info.mean == pytest.approx((sum(IMAGENET[0]) / 3,))
    wide = Origin.of_published(told, grey, {"in_chans": 5}, 7)
    assert (wide.info.mean, wide.scaled) == (grey.mean, False)
    whole = Origin.of_published(told, grey, {}, 1000)
    assert (whole.refusal, whole.names) == ("", told.class_names)
    assert Origin.of_published(told, grey, {"num_classes": 0}, 7).refusal == ""


def test_a_published_teacher_of_grey_images_gets_three_channels_of_its_own_size(monkeypatch: pytest.MonkeyPatch):
    from torchvision.models._api import WeightsEnum

    def state(_self: WeightsEnum, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        return torchvision.models.squeezenet1_1().state_dict()

    monkeypatch.setattr(WeightsEnum, "get_state_dict", state)
    spec = {"model": "torchvision:squeezenet1_1", "pretrained": True, "size": 32}
    pairs = {"use": "features", "links": [{"student": "body", "teacher": "features.3"}]}
    training = prepare(recipe(pairs, {"use": "projector"}, teacher=spec), write=False)
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    small = training.data.example(8).input.expand(-1, 3, -1, -1)
    wanted = (torch.nn.functional.interpolate(small, (32, 32), mode="bilinear") - mean) / std
    torch.testing.assert_close(seen_by(training), wanted, rtol=1e-4, atol=1e-4)
    notes = describe(training)["teacher"]["notes"]
    assert notes[0].startswith("inputs: resized to 32x32, 1 to 3 channels, normalised by mean")
    with pytest.raises(
        StillhouseError, match=r"are for 1000 classes, and its last layer for 3 is new and untrained .train it by"
    ):
        prepare(recipe({"use": "logits"}, teacher=spec), write=False)
