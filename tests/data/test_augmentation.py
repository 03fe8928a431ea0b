"""The recipe's ``[data]`` table and its transforms: what is taken, what is refused, and what is said then."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from stillhouse.config.structure import structure
from stillhouse.data import Data, DataSpec, load_data
from stillhouse.data.given import describe_given, read_given
from stillhouse.errors import StillhouseError, StillhouseWarning


def load(name: str, **options: Any) -> Data:
    return load_data(DataSpec(name=name, **options), seed=0)


def faults_of(name: str, **options: Any) -> list[str]:
    with pytest.raises(StillhouseError) as caught:
        load(name, **options)
    return [str(fault) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"size": 8}, "data.transforms[1].use: missing key"),
        ({"use": "RandmCrop"}, "data.transforms[1].use: torchvision.transforms.v2 has no transform 'RandmCrop' (did you mean 'RandomCrop'"),
        ({"use": "RandomCrop", "size": 8, "pad": 1}, "data.transforms[1].pad: unknown argument 'pad' (did you mean 'padding'"),
        ({"use": "RandomCrop"}, "data.transforms[1].size: missing argument 'size' of RandomCrop"),
        ({"use": "RandomHorizontalFlip", "p": 2.0}, "data.transforms[1]: calling RandomHorizontalFlip failed: ValueError"),
        ({"use": "MixUp"}, "data.transforms[1].use: MixUp mixes the samples of a batch"),
        ({"use": "Resize", "size": 8, "interpolation": "bilinar"}, "data.transforms[1].interpolation: unknown interpolation 'bilinar' (did you mean 'bilinear'"),
        ({"use": "ToDtype", "dtype": "float"+"y"}, "data.transforms[1].dtype: unknown dtype 'floaty'"),
        ({"use": "RandomApply", "transforms": [{"use": "Nope"}]}, "data.transforms[1].transforms[0].use: torchvision"),
        ({"use": "RandomCrop", "size": 7}, "data.transforms: transforms must keep evaluation's input shape (1, 8, 8): (1, 8, 8) became (1, 7, 7)"),
        ({"use": "RandomCrop", "size": 20}, "data.transforms[1]: RandomCrop fails on sklearn:digits, sample "),
        ({"use": "FiveCrop", "size": 8}, "data.transforms: transforms must keep evaluation's input shape (1, 8, 8): (1, 8, 8) became tuple"),
    ],
)  # fmt: skip
def test_faults_of_transforms(table: dict[str, Any], said: str) -> None:
    (text,) = faults_of("sklearn:digits", transforms=({"use": "RandomHorizontalFlip"}, table))
    assert text.startswith(said)


def test_faults_of_transforms_and_of_the_source_come_together() -> None:
    faults = faults_of("digits", transforms=({"use": "A"}, {"use": "B"}))
    assert [fault.split(":")[0] for fault in faults] == [
        "data.transforms[0].use",
        "data.transforms[1].use",
        "data.name",
    ]


def test_transforms_do_what_they_say() -> None:
    plain = load("sklearn:digits", normalize="none", batch_size=30)
    flip = load(
        "sklearn:digits", normalize="none", batch_size=30, transforms=({"use": "RandomHorizontalFlip", "p": 1.0},)
    )
    a, b = next(plain.training()), next(flip.training())
    assert torch.equal(a.id, b.id)
    assert torch.equal(a.input.flip(-1), b.input)
    nested = {"use": "RandomApply", "p": 0.5, "transforms": [{"use": "ToDtype", "dtype": "float32", "scale": True}]}
    c = next(load("sklearn:digits", normalize="none", batch_size=30, transforms=(nested,)).training())
    assert torch.allclose(a.input, c.input, atol=1e-6)  # floats and bytes in one batch: on one scale


# --- the table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"batch_size": 0}, "data.batch_size: must be >= 1, got 0"),
        ({"eval_batch_size": -1}, "data.eval_batch_size: must be >= 1, got -1"),
        ({"workers": -1}, "data.workers: must be >= 0, got -1"),
        ({"per_class": 0}, "data.per_class: must be >= 1, got 0"),
        ({"size": [8, 0]}, "data.size: must be >= 1, got (8, 0)"),
        ({"val_fraction": 0.5}, "data.val_fraction: must be in [0, 0.5), got 0.5"),
        ({"channels": 2}, "data.channels: must be 1 or 3, got 2"),
        (
            {"normalize": "dta"},
            "data.normalize: must be one of 'none', 'imagenet', 'data', got 'dta' (did you mean 'data'?)",
        ),
        ({"batch_size": 6.5}, "data.batch_size: must be a whole number, got 6.5"),
        ({"batchsize": 6}, "data.batchsize: unknown key 'batchsize' (did you mean 'batch_size'"),
        ({"size": [8, 8, 8]}, "data.size: "),
    ],
)
def test_the_tables_values_are_checked(table: dict[str, Any], said: str) -> None:
    with pytest.raises(StillhouseError) as caught:
        structure({"name": "sklearn:digits", **table}, DataSpec, "data")
    (fault,) = caught.value.faults
    assert str(fault).startswith(said)
    if "batchsize" not in table:
        with pytest.raises(StillhouseError) as direct:
            DataSpec(name="sklearn:digits", **table)
        assert f"data.{direct.value.faults[0].where}" == fault.where


def test_a_table_becomes_a_spec() -> None:
    table = {"name": "folder:x", "size": [8, 9], "transforms": [{"use": "RandomCrop", "size": 8}], "args": {}}
    spec: DataSpec = structure(table, DataSpec, "data")
    assert spec.size == (8, 9)
    assert spec.height_and_width == (8, 9)
    assert spec.transforms == ({"use": "RandomCrop", "size": 8},)
    assert DataSpec(name="folder:x", size=7).height_and_width == (7, 7)


@pytest.mark.filterwarnings("ignore:.*Normalize changes what is trained on")
def test_a_transform_that_overflows_is_named_with_its_sample():
    floats = {"use": "ToDtype", "dtype": "float32", "scale": True}
    (text,) = faults_of("sklearn:digits", transforms=(floats, {"use": "Normalize", "mean": [0.0], "std": [1e-45]}))
    assert re.fullmatch(r"sklearn:digits, sample 0: the input must be finite: \d+ of 64 values are infinite", text)


@pytest.mark.parametrize(
    ("dtype", "says"),
    [
        ("float32", r"data\.transforms: transforms turn bytes into floats that are not scaled: their mean is \d+"),
        ("int16", r"data\.transforms: transforms must give uint8 \(0 to 255\) or floats \(0 to 1\), got int16"),
    ],
)
def test_looks_that_are_not_of_evaluations_range_are_refused(dtype: str, says: str):
    (text,) = faults_of("sklearn:digits", transforms=({"use": "ToDtype", "dtype": dtype},))
    assert re.match(says, text)


def test_a_normalisation_of_training_alone_is_warned_of():
    floats = {"use": "ToDtype", "dtype": "float32", "scale": True}
    with pytest.warns(StillhouseWarning, match=r"data\.transforms\[1\]: Normalize changes what is trained on"):
        load("sklearn:digits", transforms=(floats, {"use": "Normalize", "mean": [0.5], "std": [0.5]}))


def test_what_takes_whole_batches_is_told_of_images_alone():
    flip = ({"use": "RandomHorizontalFlip"},)
    labels = torch.arange(9) % 3
    images, volumes = TensorDataset(torch.rand(9, 1, 4, 4), labels), TensorDataset(torch.rand(9, 1, 3, 4, 4), labels)
    for dataset, together in ((images, True), (volumes, False)):
        given = read_given((dataset, dataset))
        spec = describe_given(DataSpec(name="", transforms=flip, batch_size=3), given)
        assert load_data(spec, seed=0, given=given).transforms == (("RandomHorizontalFlip", together),)
