"""Models of torchvision, timm and transformers: nothing is downloaded, heads fit, runs train."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from support import TESTS
from torch import nn
from torchvision.models._api import WeightsEnum

from stillhouse import Recipe, train
from stillhouse.data import DataInfo
from stillhouse.errors import StillhouseError, StillhouseWarning
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


def info(shape: tuple[int, ...] = (3, 32, 32), classes: int = 7) -> DataInfo:
    return DataInfo(classes, tuple(map(str, range(classes))), shape, {"train": 10}, "")


def build(model: str, data: DataInfo | None = None, **options: Any) -> Any:
    base = options.pop("base", None)
    return build_model(ModelSpec(model=model, **options), data or info(), seed=0, where="student", base=base)


def fault_of(model: str, data: DataInfo | None = None, **options: Any) -> str:
    with pytest.raises(StillhouseError) as caught:
        build(model, data, **options)
    (fault,) = caught.value.faults
    return str(fault)


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
    with pytest.raises(
        StillhouseError, match="checkpoint: comes with `pretrained`, and a model starts from one of them"
    ):
        ModelSpec(model="torchvision:resnet18", pretrained=True, checkpoint="a.pt")
    with pytest.raises(StillhouseError, match="replace_head: is for a checkpoint or a recipe, and there is none"):
        ModelSpec(model="torchvision:resnet18", replace_head=True)
    with pytest.raises(StillhouseError, match="recipe: comes with `checkpoint`"):
        ModelSpec(model="torchvision:resnet18", checkpoint="a.pt", recipe={"run": {"name": "first"}})


# --- timm ----------------------------------------------------------------------------------------------------------


def digits(student: dict[str, Any], teacher: dict[str, Any], link: dict[str, Any], size: int = 32) -> Recipe:
    return Recipe.from_dict(
        {
            "run": {"name": "sources", "epochs": 1, "device": "cpu", "threads": 1, "base": str(TESTS)},
            "data": {"name": "sklearn:digits", "size": size, "channels": 3, "per_class": 2, "batch_size": 10},
            "student": student,
            "teacher": teacher,
            "plugins": [{"use": "features", "links": [link]}, {"use": "projector", "kind": "linear"}],
        }
    )


def learns(recipe: Recipe) -> None:
    result = train(recipe, write=False)
    assert result.summary["steps_done"] == 2
    assert 0.0 <= result.metrics["test"]["accuracy"] <= 1.0


CONVNET = {"model": "stillhouse.models:convnet", "args": {"width": 8}}
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


# --- transformers --------------------------------------------------------------------------------------------------

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}
SEGFORMER = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 16, 16],
    "num_attention_heads": [1, 1, 1, 1],
    "decoder_hidden_size": 16,
}


@pytest.fixture
def transformers() -> Any:
    found = pytest.importorskip("transformers")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return found


def test_transformers_take_classes_channels_and_size_from_the_data(transformers: Any) -> None:
    data = info((1, 32, 48))
    for name, args in (
        ("ViTForImageClassification", TINY),
        ("AutoModelForImageClassification", {**TINY, "model_type": "vit"}),
    ):
        model = build(f"transformers:{name}", data, args=args)
        assert tuple(model(torch.rand(2, 1, 32, 48)).logits.shape) == (2, 7)
        assert len(list(model.vit.children())) > 1
    twice = [build("transformers:ViTForImageClassification", data, args=TINY).state_dict() for _ in range(2)]
    assert all(torch.equal(v, twice[1][k]) for k, v in twice[0].items())
    dense = build("transformers:SegformerForSemanticSegmentation", info((3, 64, 32)), args=SEGFORMER)
    assert tuple(dense(torch.rand(2, 3, 64, 32)).logits.shape) == (2, 7, 16, 8)
    assert build("transformers:ViTForImageClassification", data, args={**TINY, "num_labels": 3}).config.num_labels == 3


def test_transformers_from_a_folder(transformers: Any, tmp_path: Path) -> None:
    first = build("transformers:ViTForImageClassification", args=TINY)
    first.vit.embeddings.cls_token.data += 1  # so that it is no seed's
    first.save_pretrained(tmp_path / "weights")
    options: dict[str, Any] = {"args": {"source": "weights"}, "base": tmp_path}
    other = build("transformers:AutoModelForImageClassification", info(classes=3), pretrained=True, **options)
    assert torch.equal(other.vit.embeddings.cls_token, first.vit.embeddings.cls_token)
    assert other.classifier.out_features == 3
    fresh = build("transformers:AutoModelForImageClassification", info(classes=3), **options)
    assert fresh.config.hidden_size == 16
    assert not torch.equal(fresh.vit.embeddings.cls_token, first.vit.embeddings.cls_token)


def test_transformers_that_cannot_be_had(transformers: Any) -> None:
    vit = "transformers:ViTForImageClassification"
    assert "has no model 'ViTForImageClasification' (did you mean 'ViTForImageClassification'" in fault_of(
        "transformers:ViTForImageClasification"
    )
    assert fault_of(vit, args={"hidden_sise": 8}).startswith(
        "student.args.hidden_sise: ViTConfig has no 'hidden_sise' (did you mean 'hidden_size'"
    )
    auto = "transformers:AutoModelForImageClassification"
    assert "student.args: AutoModelForImageClassification needs model_type or source (model_type" in fault_of(auto)
    assert "student.args.model_type: unknown model type 'vitt' (did you mean 'vit'" in fault_of(
        auto, args={"model_type": "vitt"}
    )
    assert fault_of(auto, args={"source": "nobody/nothing"}).startswith(
        "student.args.source: 'nobody/nothing' cannot be read"
    )
    assert "student.args.source: pretrained = true needs a source" in fault_of(vit, pretrained=True)
    assert fault_of(vit, args={"hidden_size": "big"}).startswith("student.args")


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    assert "(pip install stillhouse[huggingface])" in fault_of("transformers:ViTForImageClassification")


def test_transformers_train_with_features(transformers: Any) -> None:
    model = {"model": "transformers:ViTForImageClassification", "args": TINY}
    names = [name for name, _ in build(**model).named_modules() if name.endswith("layernorm_after")]
    learns(digits(model, {**CONVNET, "random": True}, {"student": names[-1], "teacher": "stage3"}))
    learns(digits(CONVNET, {**model, "random": True}, {"student": "stage3", "teacher": names[-1]}))


def test_a_layer_that_gives_a_tuple_is_told(transformers: Any) -> None:
    model = {"model": "transformers:ViTForImageClassification", "args": TINY}
    (layer, *_) = [name for name, _ in build(**model).named_modules() if name.endswith(".attention")]
    with pytest.raises(
        StillhouseError, match=r"gives tuple, not a tensor \(read a layer inside it that gives a tensor"
    ):
        train(digits(model, {**CONVNET, "random": True}, {"student": layer, "teacher": "stage3"}), write=False)


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
