"""Crops and flips among the batch transforms that draw for each image, by one look-up on the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.looks import place_by_torchvision
from torch import Tensor

from stillhouse import StillhouseError
from stillhouse.data import Batch, DataInfo
from stillhouse.data.augmentation import build_transforms
from stillhouse.data.batch_transforms import _KEY, BatchTransforms, build_batch_transforms
from stillhouse.data.random_numbers import draw
from stillhouse.data.windows import Placement

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def batch(n: int) -> Batch:
    images = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch(_normalised(images), torch.arange(n) % 3, torch.arange(n))


def _normalised(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def build(table: dict[str, Any], target: Any = "class") -> BatchTransforms:
    info = DataInfo(
        classes=3,
        class_names=("a", "b", "c"),
        input_shape=(3, 8, 8),
        sizes={"train": 6},
        fingerprint="",
        mean=MEAN,
        std=STD,
        target=target,
    )
    return build_batch_transforms((table,), info, 0, lambda: batch(2))


def test_crops_and_flips_can_draw_for_each_image():
    tables = (
        {"use": "RandomCrop", "size": 8, "padding": 3},
        {"use": "RandomHorizontalFlip"},
        {"use": "RandomVerticalFlip"},
    )
    given = batch(24)
    shifted = Batch(given.input.flip(0), given.target.flip(0), given.id.flip(0))
    for table in tables:
        transforms = build({**table, "each": True})
        made = transforms(given, 2, 0)
        assert torch.equal(transforms(shifted, 2, 5).input, made.input.flip(0)), "by sample, wherever it stands"
        assert torch.equal(made.target, given.target)
        assert not torch.equal(transforms(given, 3, 0).input, made.input)
        chain = build_transforms([table])
        assert chain is not None
        form = chain.transforms[0].form
        assert isinstance(form, Placement)
        images = given.input * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        u = draw(form.numbers, given.id.numpy(), 0, 2, 0, _KEY)
        placed = [place_by_torchvision(chain.transforms[0].transform, form, x, u[:, k]) for k, x in enumerate(images)]
        torch.testing.assert_close(made.input, _normalised(torch.stack(placed)), rtol=1e-5, atol=1e-5)
        if form.numbers == 1:
            untouched = (made.input == given.input).flatten(1).all(1)
            assert 0 < int(untouched.sum()) < 24
    together = build({"use": "RandomHorizontalFlip", "each": False})(given, 0, 0).input
    assert torch.equal(together, build({"use": "RandomHorizontalFlip"})(given, 0, 0).input)


@pytest.mark.parametrize(
    ("table", "target", "said"),
    [
        ({"use": "RandomHorizontalFlip", "each": 1}, "class", "data.batch_transforms[0].each: must be true or false, got 1"),
        ({"use": "ColorJitter", "each": True}, "class", "data.batch_transforms[0].each: ColorJitter cannot draw for each image"),
        ({"use": "MixUp", "each": True}, "class", "data.batch_transforms[0].each: MixUp cannot draw for each image"),
        ({"use": "RandomCrop", "size": 8, "padding": 1, "fill": 0.5, "each": True}, "class", "data.batch_transforms[0].each: RandomCrop cannot"),
        ({"use": "RandomHorizontalFlip", "each": True}, "mask", "data.batch_transforms[0].each: needs targets that stay as they are, got 'mask'"),
    ],
)  # fmt: skip
def test_what_cannot_draw_for_each_image(table: dict[str, Any], target: str, said: str):
    with pytest.raises(StillhouseError) as caught:
        build(table, target=target)
    assert str(caught.value.faults[0]).startswith(said)
