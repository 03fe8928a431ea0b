"""Each transform that works on a whole batch: bit for bit what torchvision gives for each image with the same parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as v2
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.looks import look_by_torchvision, place_by_torchvision
from torch import Tensor

from stillhouse.data.augmentation import build_transforms
from stillhouse.data.batch_forms import find_batch_form
from stillhouse.data.colour import Jitter
from stillhouse.data.random_numbers import draw
from stillhouse.data.windows import Mirror, Placement, Windows

IMAGES = {
    "dtype": st.sampled_from([torch.uint8, torch.float32]),
    "count": st.sampled_from([1, 2, 7, 20]),
    "channels": st.sampled_from([1, 3]),
    "height": st.integers(7, 40),
    "width": st.integers(7, 40),
    "seed": st.integers(0, 2**40),
}


def make_images(dtype: torch.dtype, *shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=dtype, generator=generator)
    return torch.rand(shape, generator=generator)


def numbers_for(form: Any, count: int, seed: int) -> NDArray[np.float64]:
    return draw(form.numbers, np.arange(count), seed)


def build(table: dict[str, Any]) -> Any:
    chain = build_transforms([table])
    assert chain is not None
    return chain.transforms[0].transform


KERNELS: list[dict[str, Any]] = [
    {"use": "ColorJitter", "brightness": 0.6},
    {"use": "ColorJitter", "contrast": 0.9},
    {"use": "ColorJitter", "saturation": [0.0, 3.0]},
    {"use": "ColorJitter", "hue": 0.5},
    {"use": "ColorJitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    {"use": "GaussianBlur", "kernel_size": [5, 3]},
    {"use": "GaussianBlur", "kernel_size": 7, "sigma": [0.2, 4.0]},
    {"use": "Grayscale", "num_output_channels": 3},
    {"use": "RGB"},
    {"use": "ToDtype", "dtype": "float32", "scale": True},
    {"use": "RandomAdjustSharpness", "sharpness_factor": 1.7},
    {"use": "RandomAutocontrast"},
    {"use": "RandomEqualize", "p": 1.0},
    {"use": "RandomErasing", "value": 0.3},
    {"use": "RandomErasing", "p": 1.0, "scale": [0.5, 1.0], "ratio": [0.2, 5.0], "value": 7},
    {"use": "RandomGrayscale", "p": 0.5},
    {"use": "RandomInvert"},
    {"use": "RandomPosterize", "bits": 3},
    {"use": "RandomSolarize", "threshold": 0.4},
    {"use": "RandomRotation", "degrees": 70},
    {"use": "RandomRotation", "degrees": [10, 300], "interpolation": "bilinear", "fill": 0.25, "center": [3.0, 4.5]},
    {"use": "RandomRotation", "degrees": [90, 90]},
    {"use": "RandomAffine", "degrees": 20, "translate": [0.3, 0.2], "scale": [0.5, 2.0], "shear": 15},
    {"use": "RandomAffine", "degrees": [5, 6], "shear": [-9, 9, 2, 8], "interpolation": "bilinear"},
]  # fmt: skip


@pytest.mark.parametrize("table", KERNELS, ids=lambda table: "-".join(map(str, table.values())))
@settings(derandomize=True, deadline=None, max_examples=12)
@given(**IMAGES)
def test_a_batch_is_what_torchvision_makes_of_each_image(table: dict[str, Any], **of: Any) -> None:
    transform = build(table)
    form = find_batch_form(transform)
    assert form is not None
    assert not isinstance(form, Placement)
    x = make_images(of["dtype"], of["count"], of["channels"], of["height"], of["width"], seed=of["seed"])
    before = x.clone()
    drawn = form.draw(numbers_for(form, len(x), of["seed"]), tuple(x.shape[1:]))
    out = form.apply(x, drawn)
    expected = torch.stack([look_by_torchvision(transform, form, image, row, drawn) for row, image in enumerate(x)])
    assert out.dtype == expected.dtype
    assert torch.equal(out, expected)
    assert torch.equal(x, before)


def test_normalising_a_batch_is_what_torchvision_makes_of_each_image() -> None:
    transform = v2.Normalize([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    form = find_batch_form(transform)
    assert form is not None
    assert not isinstance(form, Placement)
    x = make_images(torch.float32, 5, 3, 9, 8, seed=0)
    assert torch.equal(form.apply(x, {}), torch.stack([transform(image) for image in x]))


CROPS: list[dict[str, Any]] = [
    {"use": "RandomCrop", "size": 6},
    {"use": "RandomCrop", "size": [7, 5], "padding": 3},
    {"use": "RandomCrop", "size": [20, 25], "padding": [1, 2, 3, 4], "pad_if_needed": True, "fill": 9},
]


@pytest.mark.parametrize("table", CROPS, ids=str)
@settings(derandomize=True, deadline=None, max_examples=15)
@given(centred=st.booleans(), **IMAGES)
def test_crops_and_flips_together_are_torchvisions_one_after_the_other(
    table: dict[str, Any], centred: bool, **of: Any
) -> None:
    tables = [{"use": "RandomHorizontalFlip"}, table, {"use": "RandomVerticalFlip"}]
    if centred and table.get("fill", 0) == 0:
        tables.append({"use": "CenterCrop", "size": [9, 4]})
    x = make_images(of["dtype"], of["count"], of["channels"], of["height"], of["width"], seed=of["seed"])
    images = list(x.numpy())
    windows, expected, fill = Windows.over(images), list(x), 0
    for transform in map(build, tables):
        form = find_batch_form(transform)
        assert isinstance(form, Placement)
        u = numbers_for(form, len(x), of["seed"])
        windows, fill = form.place(windows, u), form.fill or fill
        expected = [place_by_torchvision(transform, form, image, u[:, k]) for k, image in enumerate(expected)]
    out = windows.copy(images, fill)
    assert isinstance(out, np.ndarray)
    assert torch.equal(torch.from_numpy(out), torch.stack(expected))


def test_images_of_several_sizes_are_cropped_from_where_they_are() -> None:
    images = [np.arange(h * w, dtype=np.uint8).reshape(1, h, w) for h, w in ((4, 5), (6, 3))]
    windows = Mirror(1.0).place(Windows.over(images), np.zeros((1, 2)))
    flipped = windows.copy(images, 0)
    assert isinstance(flipped, list)
    assert all(np.array_equal(made, image[..., ::-1]) for made, image in zip(flipped, images, strict=True))
    crop = find_batch_form(v2.RandomCrop(3))
    assert isinstance(crop, Placement)
    last = crop.place(windows, np.full((2, 2), 1 - 2.0**-53)).copy(images, 0)
    assert isinstance(last, np.ndarray)
    assert np.array_equal(last[0], images[0][:, 1:4, 2::-1])
    assert np.array_equal(last[1], images[1][:, 3:6, ::-1])


@pytest.mark.parametrize(
    "table",
    [
        {"use": "RandomCrop", "size": 4, "padding": 1, "padding_mode": "reflect"},
        {"use": "RandomCrop", "size": 4, "padding": 1, "fill": [1, 2, 3]},
        {"use": "RandomCrop", "size": 4, "padding": 1, "fill": 0.5},
        {"use": "RandomRotation", "degrees": 5, "expand": True},
        {"use": "RandomErasing", "value": "random"},
        {"use": "RandomResizedCrop", "size": 4},
        {"use": "RandAugment"},
        {"use": "JPEG", "quality": 50},
    ],
    ids=str,
)
def test_what_differs_by_batch_is_called_by_sample(table: dict[str, Any]) -> None:
    assert find_batch_form(build(table)) is None


def test_a_subclass_is_called_by_sample() -> None:
    class Own(v2.RandomHorizontalFlip):
        pass

    assert find_batch_form(Own()) is None
    assert find_batch_form(v2.RandomHorizontalFlip()) is not None


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ({"use": "ColorJitter", "brightness": 0.6, "hue": 0.2}, {"brightness_factor": 0.4, "hue_factor": -0.2}, {"brightness_factor": 1.6, "hue_factor": 0.2}),
        ({"use": "GaussianBlur", "kernel_size": 3, "sigma": [0.5, 3.0]}, {"sigma": 0.5}, {"sigma": 3.0}),
        ({"use": "RandomAffine", "degrees": [5, 25], "scale": [0.5, 2.0]}, {"angle": 5, "scale": 0.5}, {"angle": 25, "scale": 2.0}),
        ({"use": "RandomErasing", "p": 1.0}, {"i": 0, "j": 0, "h": 1}, {"i": 30, "j": 30, "h": 31}),
    ],
)  # fmt: skip
def test_parameters_fill_their_range_evenly(
    table: dict[str, Any], low: dict[str, float], high: dict[str, float]
) -> None:
    form = find_batch_form(build(table))
    assert form is not None
    assert not isinstance(form, Placement)
    drawn = form.draw(numbers_for(form, 4000, 1), (3, 32, 32))
    for key, least in low.items():
        values = drawn[key]
        assert least <= values.min()
        assert values.max() <= high[key]
        if values.dtype.kind == "f":
            counts, _ = np.histogram(values, bins=8, range=(least, high[key]))
            assert abs(counts - 500).max() < 100  # 4.7 standard deviations of a count


def test_orders_of_colour_changes_are_equally_likely() -> None:
    order = Jitter((0.5, 1.5), (0.5, 1.5), (0.5, 1.5), (-0.1, 0.1)).draw(draw(8, np.arange(4800), 2), (3, 4, 4))[
        "fn_idx"
    ]
    _, counts = np.unique(order, axis=1, return_counts=True)
    assert len(counts) == 24
    assert abs(counts - 200).max() < 70
