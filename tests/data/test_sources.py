"""Data sets by name: torchvision's, scikit-learn's, those of other distributions, and names of none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from torch.utils.data import TensorDataset

from stillhouse.data import Data, DataSpec, load_data
from stillhouse.data.sources import Digits
from stillhouse.errors import StillhouseError


def load(name: str, **options: Any) -> Data:
    return load_data(DataSpec(name=name, **options), seed=0)


def faults_of(name: str, **options: Any) -> list[str]:
    with pytest.raises(StillhouseError) as caught:
        load(name, **options)
    return [str(fault) for fault in caught.value.faults]


def tensors(n: int = 40, classes: int = 4, shape: tuple[int, ...] = (1, 6, 6)) -> TensorDataset:
    generator = torch.Generator().manual_seed(n)
    inputs = torch.randint(0, 256, (n, *shape), generator=generator).to(torch.uint8)
    return TensorDataset(inputs, torch.arange(n) % classes)


# --- callables -----------------------------------------------------------------------------------------------------


def test_names_of_no_data_set() -> None:
    forms = "a data set is coco:NAME, folder:NAME, hf:NAME, pairs:NAME, photos:NAME, shards:NAME, sklearn:NAME, table:NAME, torchvision:NAME or package.module:callable"
    assert forms in faults_of("digits")[0]
    assert "did you mean 'sklearn:digits'?" in faults_of("sklearn:iris")[0]
    assert (
        "data.name: torchvision has no data set 'CIFAR10O' (did you mean 'CIFAR10'"
        in faults_of("torchvision:CIFAR10O")[0]
    )


# --- torchvision ---------------------------------------------------------------------------------------------------


def test_torchvision_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = {"size": 60, "image_size": [3, 8, 8], "num_classes": 2}
    data = load("torchvision:FakeData", args=args)
    assert data.info.input_shape == (3, 8, 8)
    assert sum(data.info.sizes.values()) == 60

    class Splits(torchvision.datasets.VisionDataset):  # type: ignore[misc]
        def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
            if split not in ("train", "test"):
                raise ValueError(f"unknown split {split}")
            self.root, self.download, self.classes = root, download, ["a", "b"]
            self.data, self.targets = tensors(20, 2).tensors

        def __len__(self) -> int:
            return 20

        def __getitem__(self, i: int) -> Any:
            return self.data[i], int(self.targets[i])

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Splits)
    data = load_data(DataSpec(name="torchvision:CIFAR10", args={"root": "here"}), seed=0, base=tmp_path)
    assert data.info.sizes == {"train": 18, "val": 2, "test": 20}
    assert data.info.class_names == ("a", "b")
    dataset = data._samples.source.datasets["train"]  # type: ignore[attr-defined]
    assert dataset.root == str(tmp_path / "here")
    elsewhere = DataSpec(name="torchvision:CIFAR10", args={"root": "there", "download": False})
    assert load_data(elsewhere, seed=0, base=tmp_path).info.fingerprint == data.info.fingerprint
    assert dataset.download is True


def test_a_missing_download_is_a_fault(tmp_path: Path) -> None:
    (text,) = faults_of("torchvision:CIFAR10", args={"root": str(tmp_path), "download": False})
    assert text.startswith("data.args: calling CIFAR10 failed: RuntimeError: Dataset not found")


# --- images --------------------------------------------------------------------------------------------------------


OPENERS = """
import torch
from torch.utils.data import TensorDataset
from stillhouse.data import DatasetSource, Source, SourceRequest

def open_noise(name: str, request: SourceRequest) -> Source:
    if name == "broken":
        raise KeyError(name)
    if name == "none":
        return []
    n = int(name) * request.args.get("times", 1)
    return DatasetSource(TensorDataset(torch.rand(n, 3), torch.arange(n) % 2), "noise", request.val_fraction)
"""


@pytest.fixture
def noise(fake_distribution: Any) -> None:
    """A distribution that brings data sets called ``noise:N``, and an entry point that leads to none."""
    points = {"noise": "noise_a:open_noise", "nonoise": "noise_a:__name__"}
    fake_distribution("noise-dist", points, OPENERS, group="stillhouse.data")


@pytest.mark.parametrize("name", ["noise:40", "noise-dist:noise:40"])
def test_a_data_set_from_elsewhere_is_named_as_ours_are(noise: None, name: str):
    data = load(name, args={"times": 2})
    assert sum(data.info.sizes.values()) == 80
    assert data.info.input_shape == (3,)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("noise:broken", "data.name: 'noise:broken' cannot be opened: KeyError: 'broken' (from noise-dist 1.0)"),
        ("noise:none", "data.name: 'noise:none' must give a stillhouse.data.Source, got list"),
        ("nonoise:x", "data.name: 'noise_a:__name__' must be a function of a name and a SourceRequest, got str"),
        ("digits", "data.name: no installed data set is called 'digits' (a data set is coco:NAME, folder:NAME, "),
        ("foldr", "data.name: no installed data set is called 'foldr' (did you mean 'folder'? a data set is"),
        ("folder:", "data.name: must be folder:PATH, got 'folder'"),
        ("pairs", "data.name: must be pairs:PATH, got 'pairs'"),
    ],
)
def test_a_data_set_that_cannot_be_had_by_name_is_said(noise: None, name: str, says: str):
    assert faults_of(name)[0].startswith(says)


def test_a_misspelt_source_is_told_the_nearest():
    faults = faults_of("foldr:somewhere/else")
    assert faults[-1] == "data.name: no installed data set is called 'foldr:somewhere/else' (did you mean 'folder'?)"


def test_a_run_locks_the_distributions_that_its_names_come_from(noise: None, tmp_path: Path):
    from stillhouse import Recipe, train

    tables = {"data": {"name": "noise:40"}, "student": {"model": "mlp"}, "run": {"epochs": 1}}
    train(Recipe.from_dict(tables), out=tmp_path / "run")
    versions = json.loads((tmp_path / "run" / "lock.json").read_text())["versions"]
    assert versions["noise-dist"] == "1.0"


def test_the_digits_are_scikit_learns_wherever_it_keeps_them(monkeypatch: pytest.MonkeyPatch):
    from sklearn.datasets import load_digits

    wanted, own = load_digits(), Digits()
    assert torch.equal(own.images[:, 0], torch.from_numpy(np.rint(wanted.images * (255 / 16)).astype(np.uint8)))
    assert np.array_equal(own.labels, wanted.target)
    assert own.class_names == tuple(map(str, wanted.target_names))
    monkeypatch.setattr("stillhouse.data.sources.find_spec", lambda _name: None)
    assert torch.equal(Digits().images, own.images)
