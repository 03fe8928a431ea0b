"""TCS with self-supervised teachers from elsewhere: timm's names, a release to be converted, a repository with a hubconf."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support import recipe

from stillhouse import StillhouseError, prepare

timm = pytest.importorskip("timm")

SMALL = {"img_size": 6, "patch_size": 3, "embed_dim": 12, "depth": 1, "num_heads": 3, "in_chans": 1, "num_classes": 0}
"""A vision transformer of timm's for 6x6 images."""
OPTIONS = {"use": "tcs", "layer": "norm", "pool": "cls", "k": 4}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))


def cached(**teacher: Any) -> torch.Tensor:
    """The features (N, 12) of the samples that TCS keeps."""
    training = prepare(recipe(OPTIONS, teacher=teacher, data__args={"train": 12}), write=False)
    (cache,) = training.assembly.caches.values()
    training.close()
    return cache.rows(cache.names[0], 0, 12).float()


def converted() -> Any:
    """The documentation's few lines that convert MoCo v3's release."""
    page = (Path(__file__).parents[2] / "docs" / "tcs.md").read_text(encoding="utf-8")
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "base_encoder" in code]
    return compile(block, "docs/tcs.md", "exec")


def test_a_vision_transformer_of_timm_is_read_at_its_class_token():
    training = prepare(
        recipe(OPTIONS, teacher={"model": "timm:vit_tiny_patch16_224", "args": SMALL, "random": True}), write=False
    )
    assert len(training.run.student.head.readout.live) == 4
    training.fit()


def test_a_release_of_moco_is_converted_and_gives_the_features_of_its_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch16_224", **SMALL)
    with torch.no_grad():
        network.blocks[0].attn.qkv.weight *= 50.0  # attention to something, which its start is not
    state = {f"module.base_encoder.{key}": value for key, value in network.state_dict().items()}
    state |= {
        "module.base_encoder.head.0.weight": torch.ones(3, 12),
        "module.momentum_encoder.norm.bias": torch.ones(12),
    }
    torch.save({"epoch": 300, "arch": "vit_small", "state_dict": state}, tmp_path / "vit-s-300ep.pth.tar")
    monkeypatch.chdir(tmp_path)
    exec(converted(), {})
    file = str(tmp_path / "moco-v3.safetensors")
    found = cached(model="timm:vit_small_patch16_224", args=SMALL, checkpoint=file, normalize="same")
    images = prepare(recipe(data__args={"train": 12}), write=False).data.passes
    batches = [batch.input for batch in images.once(images.ids("train"))]
    with torch.no_grad():
        expected = network.eval().forward_features(torch.cat(batches))[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)  # kept in half precision
    six = {**SMALL, "num_heads": 6}
    other = cached(model="timm:vit_small_patch16_224", args=six, checkpoint=file, normalize="same")
    assert not torch.allclose(found, other, atol=1e-2), "the number of heads is in no weight: it has to be given"


def test_a_repository_with_a_hubconf_is_a_teacher_where_the_recipe_names_it(tmp_path: Path):
    (tmp_path / "hubconf.py").write_text(
        "import timm\n\ndef small(**more):\n    return timm.create_model('vit_tiny_patch16_224', **more)\n"
    )
    given = {"repo_or_dir": str(tmp_path), "model": "small", "source": "local", **SMALL}
    assert cached(model="torch.hub:load", args=given, random=True).shape == (12, 12)


def test_without_a_connection_the_message_says_so(monkeypatch: pytest.MonkeyPatch):
    from urllib.error import URLError

    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "_get_cache_or_reload", unreachable)
    given = {"repo_or_dir": "someone/something", "model": "small", "trust_repo": True}
    with pytest.raises(StillhouseError) as caught:
        cached(model="torch.hub:load", args=given, random=True)
    assert "teacher.args: calling load failed: URLError" in str(caught.value)
    assert "no connection" in str(caught.value)
