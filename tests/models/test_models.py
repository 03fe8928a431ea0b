"""Models: building any from its name, the data and a seed, or from weights."""

from __future__ import annotations

import random
import sys
import types
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from stillhouse.config.structure import structure
from stillhouse.data import DataInfo
from stillhouse.errors import StillhouseError
from stillhouse.models import ModelSpec, build_model


def info(shape: tuple[int, ...] = (3, 32, 32), classes: int = 7) -> DataInfo:
    return DataInfo(classes, tuple(map(str, range(classes))), shape, {"train": 10}, "")


def build(model: str, data: DataInfo | None = None, seed: int = 0, base: Path | None = None, **options: Any) -> Any:
    return build_model(ModelSpec(model=model, **options), data or info(), seed=seed, where="student", base=base)


def fault_of(model: str, data: DataInfo | None = None, **options: Any) -> str:
    with pytest.raises(StillhouseError) as caught:
        build(model, data, **options)
    (fault,) = caught.value.faults
    return str(fault)


# --- building ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("stillhouse.models:convnet", (1, 8, 8)),
        ("stillhouse.models:vit", (1, 8, 8)),
        ("stillhouse.models:vit", (3, 16, 8)),
        ("stillhouse.models:mlp", (3, 5, 7)),
        ("stillhouse.models:mlp", (11,)),
        ("torchvision:resnet18", (3, 32, 32)),
        ("torchvision:mobilenet_v3_small", (3, 32, 32)),
        ("torchvision:vit_b_16", (3, 32, 32)),
    ],
)
def test_classes_and_shape_come_from_the_data(model: str, shape: tuple[int, ...]) -> None:
    net = build(model, info(shape)).eval()
    assert tuple(net(torch.randn(2, *shape)).shape) == (2, 7)


def test_arguments_win_over_the_data() -> None:
    assert build("stillhouse.models:convnet", args={"num_classes": 3, "width": 4}).head.weight.shape == (3, 16)
    assert build("torchvision:resnet18", args={"num_classes": 3}).fc.out_features == 3


@pytest.mark.parametrize("model", ["stillhouse.models:vit", "torchvision:resnet18"])
def test_the_seed_decides_the_weights_and_nothing_else_is_touched(model: str) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    states = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy(), random.getstate()
    first = build(model, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], states[1])
    assert random.getstate() == states[2]
    torch.rand(9)
    again, other = build(model, seed=5).state_dict(), build(model, seed=6).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    weights = [k for k in first if k.endswith("weight") and first[k].ndim > 1]
    assert weights
    assert not any(torch.equal(first[k], other[k]) for k in weights)


def test_names_and_arguments_that_are_not_there() -> None:
    assert fault_of("resnet18") == (
        "student.model: no installed model is called 'resnet18' (a model is FAMILY:NAME, such as torchvision:resnet18, or package.module:callable)"
    )
    assert "torchvision has no model 'resnet81' for images (did you mean 'resnet18'" in fault_of("torchvision:resnet81")
    assert "'fasterrcnn_resnet50_fpn'" in fault_of("torchvision:fasterrcnn_resnet_50_fpn")
    assert "no attribute 'convnt' (did you mean 'convnet'" in fault_of("stillhouse.models:convnt")
    assert fault_of("stillhouse.models:convnet", args={"widht": 4}) == (
        "student.args.widht: unknown argument 'widht' (did you mean 'width'? "
        "it takes 'num_classes', 'in_channels', 'width', 'depth', 'stages', 'stride', 'norm')"
    )
    text = fault_of("torchvision:resnet18", args={"zero_init_residul": True})
    assert text.startswith("student.args.zero_init_residul: unknown argument")
    assert "'zero_init_residual'?" in text
    assert fault_of("stillhouse.models:vit", args={"heads": 5}) == "student.args.heads: must divide dim = 64, got 5"
    assert "set channels = 3 in [data]" in fault_of("torchvision:resnet18", info((1, 8, 8)))


def test_what_is_built_must_be_a_module(tmp_path: Path) -> None:
    (tmp_path / "sh_models_here.py").write_text(
        "from torch import nn\n"
        "shared = nn.Linear(2, 2)\nnumber = 3\n"
        "def nothing(): pass\n"
        "def broken(num_classes): raise RuntimeError('inside')\n"
        "def needs(size, num_classes): return nn.Linear(size, num_classes)\n"
        "def weights(num_classes, pretrained=False): return nn.Linear(2 if pretrained else 1, num_classes)\n"
    )
    said = {
        "nothing": "student.model: 'sh_models_here:nothing' must return an nn.Module, got NoneType",
        "shared": "must be a function or class that makes a module, got a module",
        "number": "student.model: 'sh_models_here:number' must be callable, got int",
        "broken": "student.args: calling broken failed: RuntimeError: inside",
        "needs": "student.args.size: missing argument 'size' of needs",
    }
    for name, text in said.items():
        assert text in fault_of(f"sh_models_here:{name}", base=tmp_path)
    assert build("sh_models_here:needs", base=tmp_path, args={"size": 4}).weight.shape == (7, 4)
    assert build("sh_models_here:weights", base=tmp_path, pretrained=True).weight.shape == (7, 2)
    assert "student.pretrained: 'stillhouse.models:mlp' has no argument `pretrained`" in fault_of(
        "stillhouse.models:mlp", pretrained=True
    )


def test_pretrained_torchvision_gets_a_new_head(monkeypatch: pytest.MonkeyPatch) -> None:
    published = torchvision.models.resnet18()
    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", lambda *_, **__: published.state_dict())
    model = build("torchvision:resnet18", pretrained=True)
    assert torch.equal(model.conv1.weight, published.conv1.weight)
    assert model.fc.out_features == 7
    same = build("torchvision:resnet18", info(classes=1000), pretrained=True)
    assert torch.equal(same.fc.weight, published.fc.weight)
    assert build("torchvision:resnet18", pretrained=True, args={"num_classes": 4}).fc.out_features == 4


def test_a_failed_download_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fails)
    assert fault_of("torchvision:resnet18", pretrained=True) == (
        "student.pretrained: the published weights of 'torchvision:resnet18' cannot be fetched: <urlopen error no network> "
        '(leave out `pretrained` and give the weights: checkpoint = "FILE")'
    )


def test_timm_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "(pip install stillhouse[timm])" in fault_of("timm:vit_tiny_patch16_224")
    fake = types.ModuleType("timm")
    calls: list[dict[str, Any]] = []

    def create_model(model_name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        calls.append({"model_name": model_name, "pretrained": pretrained, **kwargs})
        if "drop" in kwargs:
            raise TypeError("VisionTransformer.__init__() got an unexpected keyword argument 'drop'")
        if pretrained:
            raise ConnectionError("no hub")
        return nn.Linear(kwargs["in_chans"], kwargs["num_classes"])

    vars(fake).update(
        create_model=create_model,
        list_models=lambda: ["vit_tiny_patch16_224", "resnet18"],
        get_pretrained_cfg=lambda name: None,
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    build("timm:vit_tiny_patch16_224.augreg", info((1, 8, 8)), args={"img_size": 8})
    assert calls == [
        {
            "model_name": "vit_tiny_patch16_224.augreg",
            "pretrained": False,
            "num_classes": 7,
            "in_chans": 1,
            "img_size": 8,
        }
    ]
    assert "timm has no model 'resnet81' (did you mean 'resnet18'" in fault_of("timm:resnet81")
    assert fault_of("timm:resnet18", args={"drop": 1}).startswith("student.args.drop: unknown argument 'drop'")
    assert "student.pretrained: the published weights of 'timm:resnet18' cannot be fetched: no hub" in fault_of(
        "timm:resnet18", pretrained=True
    )


def test_the_table_is_strict() -> None:
    with pytest.raises(StillhouseError, match=r"student\.pretrained: must be true or false, got 'yes'"):
        structure({"model": "torchvision:resnet18", "pretrained": "yes"}, ModelSpec, "student")
    with pytest.raises(StillhouseError, match="model: must be text, got 3"):
        ModelSpec(model=3)  # type: ignore[arg-type]
