"""Folders of classes: those without a training sample, those several folders down, and folders that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stillhouse.data import DataSpec, load_data
from stillhouse.errors import StillhouseError


def test_classes_without_a_training_sample_are_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    import torch
    from torch.utils.data import TensorDataset

    from stillhouse import StillhouseWarning
    from stillhouse.data import DataSpec, load_data

    module = ModuleType("odd_labels")
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 9] * 6)
    module.make = lambda: {"train": TensorDataset(torch.rand(42, 1, 4, 4), labels)}
    monkeypatch.setitem(sys.modules, "odd_labels", module)
    with pytest.warns(StillhouseWarning, match="3 of 10 classes have no training sample"):
        data = load_data(DataSpec(name="odd_labels:make", val_fraction=0.0), seed=0)
    assert data.info.classes == 10


def test_classes_may_lie_several_folders_down(tmp_path: Path):
    for name in ("Greek/alpha", "Greek/beta", "Latin/a"):
        (tmp_path / name).mkdir(parents=True)
        for n in range(4):
            Image.fromarray(np.full((4, 4), n * 9, dtype=np.uint8)).save(tmp_path / name / f"{n}.png")
    data = load_data(DataSpec(name=f"folder:{tmp_path}", args={"levels": 2}, val_fraction=0.25), seed=0)
    assert data.info.class_names == ("Greek/alpha", "Greek/beta", "Latin/a")
    assert data.info.sizes == {"train": 6, "val": 3, "test": 3}
    data = load_data(DataSpec(name=f"folder:{tmp_path}", val_fraction=0.25), seed=0)
    assert data.info.class_names == ("Greek", "Latin")
    for args, place in (({"levels": 0}, "data.args.levels"), ({"depth": 2}, "data.args.depth")):
        with pytest.raises(StillhouseError) as error:
            load_data(DataSpec(name=f"folder:{tmp_path}", args=args), seed=0)
        assert error.value.faults[0].where == place


def test_folders_of_splits_without_classes_are_no_classes(tmp_path: Path):
    for name in ("train", "val", "trainannot"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / name / "0.png")
    with pytest.raises(StillhouseError, match=r"the split folders 'train' and 'val' in .* hold no class folders"):
        load_data(DataSpec(name=f"folder:{tmp_path}"), seed=0)
