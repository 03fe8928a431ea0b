"""What augmentation of images in memory costs, beside a data set that calls torchvision's v2 transforms by sample.

python tests/benchmarks/augmentation.py [--write docs/benchmarks/augmentation.md]

Targets: crop, flip and normalisation at least 10 times faster at 32 x 32, and 5 times at 64 x 64. First it is asserted that
both sides' pixels are equal, bit for bit, where torchvision is given the parameters that were drawn here.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torchvision.transforms.v2 as v2
from _bench import ratio, report
from _turns import Side
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.looks import look_by_torchvision, place_by_torchvision  # the tests' own

from stillhouse.data import Data, DataSpec, load_data
from stillhouse.data.augmentation import build_transforms
from stillhouse.data.random_numbers import draw
from stillhouse.data.windows import Placement
from stillhouse_experiments.timing import steady_allocator

BATCH, TURNS = 128, 7
FLIP = {"use": "RandomHorizontalFlip"}
TARGETS = {32: 10.0, 64: 5.0}
CROPS = {32: 4, 64: 8, 160: 16}
OTHERS: list[dict[str, Any]] = [
    {"use": "ColorJitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    {"use": "RandomRotation", "degrees": 15},
    {"use": "RandomAffine", "degrees": 15, "translate": [0.1, 0.1], "scale": [0.8, 1.2], "interpolation": "bilinear"},
    {"use": "GaussianBlur", "kernel_size": 3},
    {"use": "RandomErasing"},
    {"use": "RandomSolarize", "threshold": 128},
    {"use": "RandomAutocontrast"},
    {"use": "RandomEqualize"},
    {"use": "RandomGrayscale"},
    {"use": "RandomResizedCrop", "size": 32},
]


class BySample(Dataset[tuple[Tensor, Tensor]]):
    """Images in memory, each transformed when it is asked for, as torchvision's guide has it."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable[[Tensor], Tensor]) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[i]), self.labels[i]


def make_images(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Random images (count, 3, size, size), uint8, and their labels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return pixels, torch.arange(count) % 10


def load(images: Tensor, labels: Tensor, tables: list[dict[str, Any]]) -> Data:
    """The same images as a recipe's data."""
    module = ModuleType("images_in_memory")
    sets = {"train": TensorDataset(images, labels), "val": TensorDataset(images[:64], labels[:64])}
    module.open_images = lambda: sets  # type: ignore[attr-defined]  # a module made here
    sys.modules[module.__name__] = module
    spec = DataSpec(name="images_in_memory:open_images", batch_size=BATCH, drop_last=True, transforms=tuple(tables))
    return load_data(spec, seed=0)


def check_equal(data: Data, images: Tensor, tables: list[dict[str, Any]]) -> None:
    """Assert that a batch is what torchvision makes of each image, with the parameters that were drawn for it."""
    chain = build_transforms(tables)
    assert chain is not None
    batch = next(data.training())
    ids = batch.id.numpy()
    expected = list(images[batch.id])
    for place, named in enumerate(chain.transforms):
        form, transform = named.form, named.transform
        if form is None:
            return  # torchvision's own code makes it
        u = draw(form.numbers, ids, 0, 0, place)
        if isinstance(form, Placement):
            expected = [place_by_torchvision(transform, form, x, u[:, k]) for k, x in enumerate(expected)]
        else:
            drawn = form.draw(u, tuple(expected[0].shape))
            expected = [look_by_torchvision(transform, form, x, k, drawn) for k, x in enumerate(expected)]
    pixels = torch.stack(expected)
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.info.mean, data.info.std))
    assert torch.equal(batch.input, pixels.float().div(255).sub(mean).div(std)), tables
    finish = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.info.mean, data.info.std)])
    torch.testing.assert_close(batch.input, finish(pixels), rtol=0, atol=1e-6)  # v2 multiplies by 1 / 255


def compare(size: int, count: int, tables: list[dict[str, Any]]) -> list[object]:
    """One line of the table."""
    images, labels = make_images(count, size)
    data = load(images, labels, tables)
    check_equal(data, images, tables)
    chain = build_transforms(tables)
    assert chain is not None
    steps = [named.transform for named in chain.transforms]
    finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.info.mean, data.info.std)]
    by_sample = BySample(images, labels, v2.Compose([*steps, *finish]))

    def by_hand(side: Side) -> None:
        loader = DataLoader(by_sample, batch_size=BATCH, shuffle=True, drop_last=True)
        batches = (batch for _ in iter(int, 1) for batch in loader)
        for _ in side.stream():
            next(batches)

    def ours(side: Side) -> None:
        batches = data.training()
        for _ in side.stream():
            next(batches)

    sides = [Side("by sample", by_hand, None), Side("stillhouse", ours, None)]
    for turn in range(TURNS + 1):
        for side in sides:
            side.turn(count // BATCH)
            if turn == 0:
                side.seconds.clear()
    for side in sides:
        side.end()
    seconds = {side.name: side.seconds for side in sides}
    low, middle, high = ratio(seconds, "by sample", "stillhouse")
    target = TARGETS.get(size) if len(tables) > 1 else None
    paths = ["batch" if together else "sample" for _, together in data.transforms]
    return [
        f"{size} x {size}",
        ", ".join(table["use"] for table in tables),
        " and ".join(dict.fromkeys(paths)),
        *(f"{1e6 * statistics.median(seconds[name]) / BATCH:.1f}" for name in seconds),
        f"{middle:.1f} ({low:.1f} to {high:.1f})",
        "" if target is None else f"at least {target:g}: {'met' if middle >= target else 'MISSED'}",
    ]


def main() -> None:
    """Measure, print, and with ``--write`` keep."""
    torch.set_num_threads(1)
    steady_allocator()
    crops = [
        compare(size, 4096 if size < 100 else 512, [{"use": "RandomCrop", "size": size, "padding": padding}, FLIP])
        for size, padding in CROPS.items()
    ]
    rows = [*crops, *(compare(32, 1024, [table]) for table in OTHERS)]
    report(
        "Augmentation: images in memory",
        [
            "images",
            "transforms",
            "by",
            "torchvision by sample, us an image",
            "here, us an image",
            "times faster",
            "target",
        ],
        rows,
        [
            f"Colour images of 8 bits in memory, batches of {BATCH}, no workers; each side gives normalised float32 batches with "
            "their labels. By sample: a Dataset that calls v2's transforms, ToDtype and Normalize, under torch's DataLoader. "
            f"Processor time, {TURNS} turns of an epoch each, the sides in turn in one process. Every row's pixels are "
            "first asserted to be torchvision's own for the same parameters, but for RandomResizedCrop, which is called by sample "
            "on both sides. Its draws here follow from the sample, and seeding the generators for each takes a part of the time."
        ],
    )


if __name__ == "__main__":
    main()
