"""Models of transformers: classes, channels and size from the data, and how they train."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from support.model_sources import CONVNET, build, digits, fault_of, info, learns

from stillhouse import train
from stillhouse.errors import StillhouseError

pytestmark = pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


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


def test_transformers_that_cannot_be_had(transformers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it would ask, and wait where nobody answers
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
