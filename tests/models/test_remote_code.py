"""Code beside a configuration is never run, nor anything asked about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stillhouse.data import DataInfo
from stillhouse.errors import StillhouseError
from stillhouse.models import ModelRequest, ModelSpec, build_model
from stillhouse.models.builder import describe_published

INFO = DataInfo(3, ("a", "b", "c"), (3, 32, 32), {"train": 10}, "")


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    return pytest.importorskip("transformers")


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_folder_with_code_of_its_own(pretrained: bool, transformers: Any, tmp_path: Path):
    source = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nclass C: ...\n"
    (tmp_path / "own.py").write_text(source)
    told = {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForImageClassification": "own.C"}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    spec = ModelSpec(
        model="transformers:AutoModelForImageClassification", args={"source": str(tmp_path)}, pretrained=pretrained
    )
    with pytest.raises(StillhouseError, match=r"student\.args"):
        build_model(spec, INFO, seed=0, where="student")
    assert describe_published(ModelRequest(spec, INFO, "teacher")) is None
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize(
    "name", ["ForcedEOSTokenLogitsProcessor", "AutoConfig", "pipeline", "ViTForImageClassificationX"]
)
def test_what_is_no_model(name: str, transformers: Any):
    with pytest.raises(StillhouseError, match=r"student.model: transformers( has no model|' .* is no model)"):
        build_model(ModelSpec(model=f"transformers:{name}"), INFO, seed=0, where="student")
