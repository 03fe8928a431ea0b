"""Models of torchvision, of files and by name: nothing is downloaded, heads fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from support.model_sources import build, fault_of, info
from torch import nn
from torchvision.models._api import WeightsEnum

from stillhouse.errors import StillhouseError
from stillhouse.models import ModelSpec, build_model
from stillhouse.models.heads import put_new_heads
from stillhouse.models.nets.convolutional import convnet
from stillhouse.models.nets.dense import unet
from stillhouse.models.weights import load_state

pytestmark = pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


# --- torchvision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_segmentation_models(name: str) -> None:
    model = build(f"torchvision:{name}").eval()
    assert tuple(model(torch.rand(2, 3, 40, 48))["out"].shape) == (2, 7, 40, 48)
    other = build(f"torchvision:{name}", args={"num_classes": 3}).eval()
    assert other(torch.rand(1, 3, 40, 48))["out"].shape[1] == 3


def test_a_backbones_weights_are_fetched_when_asked_for() -> None:
    with pytest.raises(StillhouseError, match="a download was tried"):
        build("torchvision:lraspp_mobilenet_v3_large", args={"weights_backbone": "DEFAULT"})


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("squeezenet1_1", ["classifier.1"]),
        ("mobilenet_v3_small", ["classifier.3"]),
        ("googlenet", ["fc"]),
        ("lraspp_mobilenet_v3_large", ["classifier.low_classifier", "classifier.high_classifier"]),
        ("deeplabv3_mobilenet_v3_large", ["classifier.4"]),
        (
            "fasterrcnn_mobilenet_v3_large_320_fpn",
            ["roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"],
        ),
        ("ssdlite320_mobilenet_v3_large", [f"head.classification_head.module_list.{k}.1" for k in range(6)]),
    ],
)
def test_published_weights_get_new_heads(name: str, heads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    models = torchvision.models
    categories = len(models.get_model_weights(name).DEFAULT.meta["categories"])  # type: ignore[attr-defined]
    detection = "rcnn" in name or "ssd" in name
    kwargs: dict[str, Any] = {"weights_backbone": None} if detection or "lab" in name or "raspp" in name else {}
    if "lab" in name:
        kwargs["aux_loss"] = True
    published = models.get_model(name, num_classes=categories, **kwargs).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: published)
    model = build(f"torchvision:{name}", info((3, 64, 64), 5), pretrained=True)
    own = model.state_dict()
    other = {k.rpartition(".")[0] for k in own if own[k].shape != published[k].shape}
    assert sorted(other) == sorted(heads)
    assert all(torch.equal(own[k], published[k]) for k in own if k.rpartition(".")[0] not in other)
    images = torch.rand(2, 3, 96, 96)
    if not detection:
        found = model.eval()(images)
        assert (found["out"] if kwargs else found).shape[1] == 5
        return
    boxes = [{"boxes": torch.tensor([[8.0, 8, 60, 60]]), "labels": torch.tensor([4])}] * 2
    assert all(v.isfinite() for v in model.train()(list(images), boxes).values())
    with torch.no_grad():
        assert all((f["labels"] < 5).all() for f in model.eval()(list(images)))


def test_heads_are_what_differs() -> None:
    published, fresh = convnet(5, width=4), convnet(3, width=4)
    head = fresh.head
    assert put_new_heads(published, fresh) == ["head"]
    assert published.head is head
    assert put_new_heads(convnet(3), convnet(3)) == []


# --- a file of weights ---------------------------------------------------------------------------------------------


def test_a_student_starts_from_a_file(tmp_path: Path) -> None:
    given = convnet(7, width=4)
    torch.save(given.state_dict(), tmp_path / "seven.pt")
    options: dict[str, Any] = {"args": {"width": 4}, "checkpoint": "seven.pt", "base": tmp_path}
    same = build("stillhouse.models:convnet", **options)
    assert all(torch.equal(v, given.state_dict()[k]) for k, v in same.state_dict().items())
    assert fault_of("stillhouse.models:convnet", info(classes=3), **options) == (
        f"student.checkpoint: {tmp_path / 'seven.pt'}: must have the model's number of classes; other layers: head.weight, head.bias "
        "(replace_head = true initialises these layers anew)"
    )
    other = build("stillhouse.models:convnet", info(classes=3), replace_head=True, **options)
    fresh = build("stillhouse.models:convnet", info(classes=3), args={"width": 4})
    assert torch.equal(other.stage3[0][0].weight, given.stage3[0][0].weight)
    assert torch.equal(other.head.weight, fresh.head.weight)
    # Another network is no matter of its head.
    for replace in (False, True):
        wider = {**options, "args": {"width": 6}, "replace_head": replace}
        with pytest.raises(StillhouseError, match="does not fit the model: other shapes"):
            build("stillhouse.models:convnet", **wider)


def test_what_does_not_go_together() -> None:
    with pytest.raises(StillhouseError, match="checkpoint: cannot be combined with `pretrained`"):
        ModelSpec(model="torchvision:resnet18", pretrained=True, checkpoint="a.pt")
    with pytest.raises(StillhouseError, match="replace_head: needs `checkpoint` or `recipe`"):
        ModelSpec(model="torchvision:resnet18", replace_head=True)
    with pytest.raises(StillhouseError, match="recipe: cannot be combined with `checkpoint`"):
        ModelSpec(model="torchvision:resnet18", checkpoint="a.pt", recipe={"run": {"name": "first"}})


# --- an encoder alone ----------------------------------------------------------------------------------------------


def test_a_classifiers_stages_fit_a_dense_student() -> None:
    dense = unet(5, width=4, stages=3, stride=1)
    states = {k: v for k, v in convnet(7, width=4).state_dict().items() if not k.startswith("head")}
    load_state(dense.encoder, states, "")
    assert [type(m) for m in dense.encoder.stage1] == [nn.Sequential]


FAMILY = """
from torch import nn
from stillhouse.models import ModelFamily

def build(name, request):
    if name == "broken":
        raise KeyError(name)
    return nn.Linear(request.info.input_shape[0], request.info.classes, bias=name == "biased")

LINES = ModelFamily(build)
line = nn.Linear
ready = nn.Linear(2, 2)
number = 3
"""


@pytest.fixture
def lines(fake_distribution: Any) -> None:
    """A distribution with a family of models, one model, and two entry points that lead to neither."""
    points = {name: f"lines_a:{name}" for name in ("ready", "number", "line")} | {"lines": "lines_a:LINES"}
    fake_distribution("lines-dist", points, FAMILY, group="stillhouse.models")


@pytest.mark.parametrize("name", ["lines:biased", "lines-dist:lines:biased"])
def test_a_family_of_models_from_elsewhere_is_named_as_ours_are(lines: None, name: str):
    model = build_model(ModelSpec(model=name), info((5,), 3), seed=0, where="student")
    assert (model.in_features, model.out_features, model.bias is not None) == (5, 3, True)


def test_one_model_has_a_name_too(lines: None):
    args = {"in_features": 4, "out_features": 2}
    assert build_model(ModelSpec(model="line", args=args), info((5,), 3), seed=0, where="student").in_features == 4
    assert type(build_model(ModelSpec(model="mlp"), info((5,), 3), seed=0, where="student")).__name__ == "Mlp"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lines", "student.model: must be lines:NAME, since 'lines' is a family of models"),
        ("line:x", "student.model: 'line' is one model, got the name 'x' (line)"),
        ("lines:broken", "student.model: 'lines:broken' cannot be built: KeyError: 'broken' (from lines-dist 1.0)"),
        ("ready", "student.model: 'lines_a:ready' must be a ModelFamily or a callable"),
        ("number", "student.model: 'lines_a:number' must be a ModelFamily or a callable"),
        ("convnt", "student.model: no installed model is called 'convnt' (did you mean 'convnet'?"),
        ("timm", "student.model: must be timm:NAME, since 'timm' is a family of models"),
    ],
)
def test_a_model_that_cannot_be_had_by_name_is_said(lines: None, name: str, says: str):
    with pytest.raises(StillhouseError) as caught:
        build_model(ModelSpec(model=name), info((5,), 3), seed=0, where="student")
    assert str(caught.value).startswith(says)
