"""Models of timm, as student and teacher: their sizes, arguments and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from support.model_sources import CONVNET, build, digits, fault_of, info, learns
from torch import nn

from stillhouse.errors import StillhouseWarning

pytestmark = pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


@pytest.mark.parametrize(
    ("name", "args", "layer", "more"),
    [
        ("resnet10t", {}, "layer3", {"pool": "mean"}),
        ("mobilenetv3_small_050", {}, "blocks.4", {"pool": "none"}),
        ("vit_tiny_patch16_224", SMALL_VIT, "blocks.1", {"pool": "mean", "{side}_prefix": 1}),
        ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}, "stages.2", {"pool": "none"}),
        ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]}, "layers.1", {"{side}_channels_last": True}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_timm_models_on_both_sides(
    name: str, args: dict[str, Any], layer: str, more: dict[str, Any], side: str
) -> None:
    pytest.importorskip("timm")
    model = {"model": f"timm:{name}", "args": args}
    link = {side: layer, **{key.format(side=side): value for key, value in more.items()}}
    if side == "student":
        learns(digits(model, {**CONVNET, "random": True}, {**link, "teacher": "stage3"}))
    else:
        learns(digits(CONVNET, {**model, "random": True}, {**link, "student": "stage3"}))


def test_timm_models_of_one_size_get_the_datas(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    small = {key: value for key, value in SMALL_VIT.items() if key != "img_size"}
    vit = "timm:vit_tiny_patch16_224"
    for shape in ((3, 32, 32), (1, 32, 48)):
        model = build(vit, info(shape), args=small)
        assert model.patch_embed.img_size == shape[1:]
        assert tuple(model(torch.rand(2, *shape)).shape) == (2, 7)
    learns(digits({"model": vit, "args": small}, {**CONVNET, "random": True}, {"student": "blocks.1", "teacher": "stage3", "pool": "mean", "student_prefix": 1}))  # fmt: skip
    given: list[dict[str, Any]] = []
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda **options: given.append(options) or create(**options))
    assert build(vit, args={**small, "img_size": 64}).patch_embed.img_size == (64, 64)
    assert build(vit, args={**small, "dynamic_img_size": True}).patch_embed.img_size == (224, 224)
    assert build(vit, info((3, 224, 224)), args=small).patch_embed.img_size == (224, 224)
    build("timm:resnet10t")  # which takes any
    assert [options.get("img_size") for options in given] == [64, None, None, None]


def test_a_timm_model_without_the_argument_is_built_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")

    def create_model(model_name: str, pretrained: bool, num_classes: int, in_chans: int, **more: Any) -> nn.Module:
        if more:
            raise TypeError(f"ResNet.__init__() got an unexpected keyword argument {next(iter(more))!r}")
        model: Any = nn.Linear(in_chans, num_classes)
        model.pretrained_cfg = {"fixed_input_size": True, "input_size": (3, 224, 224)}
        return model

    monkeypatch.setattr(timm, "create_model", create_model)
    assert build("timm:vit_tiny_patch16_224").out_features == 7
    assert "student.args.drop: unknown argument 'drop'" in fault_of("timm:vit_tiny_patch16_224", args={"drop": 1})
    with pytest.warns(
        StillhouseWarning,
        match=r"student\.args\.img_size: 'timm:hf-hub:some/one' takes images of 224x224, and the data's are 32x48: "
        r"args = \{ img_size = \[32, 48\] \}",
    ):
        build("timm:hf-hub:some/one", info((3, 32, 48)))


def test_timm_weights_from_a_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    files = pytest.importorskip("safetensors.torch")
    published = timm.create_model("resnet10t", num_classes=11)
    files.save_file(published.state_dict(), tmp_path / "weights.safetensors")
    options: dict[str, Any] = {"checkpoint": "weights.safetensors", "base": tmp_path}
    model = build("timm:resnet10t", info(), replace_head=True, **options)
    assert torch.equal(model.layer4[0].conv1.weight, published.layer4[0].conv1.weight)
    assert model.fc.out_features == 7
    assert build("timm:resnet10t", info(classes=11), **options).fc.out_features == 11
