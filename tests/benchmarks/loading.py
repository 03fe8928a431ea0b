"""Loading: batches of data that is in memory, beside torch's DataLoader as a practitioner writes it; how long a start takes.

Targets: a data set of one's own at most 1.25 times the DataLoader's time a batch where it draws no random numbers, 1.8
times where it does, each sample's draws following from (seed, epoch, sample); a TensorDataset of a million samples loaded
in less than 0.5 s of processor time, without a copy; a folder of 50,000 images in less than 3 s.
"""

from __future__ import annotations

import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _bench import report
from _turns import Side, take_turns
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from stillhouse.data import Data, DataSpec, load_data
from stillhouse.seeds import OwnRandomness, mix

ROWS, BATCH, CLASSES = 6400, 64, 10
TURNS = (15, 100)
MILLION, FILES = 1_000_000, 50_000


class Own(Dataset[tuple[Tensor, int]]):
    """A data set of one's own: a row of a tensor and its label, perhaps with noise by ``draw``."""

    def __init__(self, shape: tuple[int, ...], draw: Callable[[Tensor], Tensor] = Tensor.clone) -> None:
        self.inputs = torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(0))
        self.targets, self.draw = torch.arange(ROWS) % CLASSES, draw

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.draw(self.inputs[i]), int(self.targets[i])


def add_noise(x: Tensor) -> Tensor:
    """Noise from torch."""
    return x + 0.1 * torch.randn(x.shape)


def add_much_noise(x: Tensor) -> Tensor:
    """Noise from torch, numpy and Python."""
    return add_noise(x) + random.random() + np.random.rand()


def make_tensors(shape: tuple[int, ...], rows: int = ROWS) -> TensorDataset:
    """Noise with labels."""
    inputs = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, torch.arange(rows) % CLASSES)


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "16 numbers a sample": (partial(Own, (16,)), "1.25"),
    "images of 3 x 32 x 32": (partial(Own, (3, 32, 32)), "1.25"),
    "16 numbers, noise from torch": (partial(Own, (16,), add_noise), "1.8"),
    "16 numbers, noise from torch, numpy and Python": (partial(Own, (16,), add_much_noise), "1.8"),
    "TensorDataset of 16 numbers": (partial(make_tensors, (16,)), "1.25"),
    "TensorDataset of 3 x 32 x 32": (partial(make_tensors, (3, 32, 32)), "1.25"),
}
_given: Any = None


def give() -> Any:
    """The data set that a recipe names as ``loading:give``."""
    return _given


def load(dataset: Any, **options: Any) -> Data:
    """Load ``dataset``, all of it for training."""
    global _given
    _given = {"train": dataset}
    sys.modules["loading"] = sys.modules[__name__]
    spec = DataSpec(name="loading:give", batch_size=BATCH, val_fraction=0.0, **{"normalize": "none", **options})
    return load_data(spec, seed=0)


def check_batches(dataset: Any, data: Data) -> None:
    """Assert that two epochs' batches are what the data set gives, each sample's draws by its own seed."""
    training = data.training()
    for step in range(2 * data.steps_per_epoch):
        batch = next(training)
        items = []
        with OwnRandomness() as randomness:
            for i in batch.id.tolist():
                randomness.seed(mix(0, step // data.steps_per_epoch, i))
                items.append(dataset[i])
        inputs, targets = default_collate(items)
        assert torch.equal(batch.input, inputs), step
        assert torch.equal(batch.target, targets), step


def repeat(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches, epoch after epoch."""
    while True:
        yield from loader


def measure(make: Callable[[], Any]) -> tuple[float, float, float, float]:
    """Microseconds of a DataLoader's batch; the ratio of ours to it: least, median and greatest of the turns."""
    dataset = make()
    data = load(dataset)
    check_batches(dataset, data)

    def consume(batches: Iterator[Any], side: Side) -> None:
        for _ in side.stream():
            batch = next(batches)
            side.note(torch.tensor(float(len(batch[0]))))

    sides = [
        Side("DataLoader", partial(consume, repeat(DataLoader(dataset, batch_size=BATCH, shuffle=True))), None),
        Side("Stillhouse", partial(consume, data.training()), None),
    ]
    seconds = take_turns(sides, *TURNS)
    ratios = sorted(a / b for a, b in zip(seconds["Stillhouse"], seconds["DataLoader"], strict=True))
    return statistics.median(seconds["DataLoader"]) * 1e6, ratios[0], statistics.median(ratios), ratios[-1]


def measure_start() -> list[list[str]]:
    """Rows of what a start takes: a million samples in memory, and many files."""
    labelled = make_tensors((16,), MILLION)
    rows = [
        measure_start_of(labelled, "classes"),
        measure_start_of(TensorDataset(labelled.tensors[0], labelled.tensors[0][:, :3]), "vectors", "vector"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        for cache in ("none", "auto"):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            start = time.process_time()
            load_data(DataSpec(name=f"folder:{folder}", cache=cache, normalize="none"), seed=0)
            seconds = time.process_time() - start
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            what = "all of them decoded" if cache == "auto" else "none kept in memory"
            target = "-" if cache == "auto" else "3 s"
            rows.append([f"a folder of {FILES:,} images, {what}", f"{seconds:.2f} s", target, f"{grown:.0f} MiB"])
    return rows


def measure_start_of(dataset: TensorDataset, named: str, target: str = "class") -> list[str]:
    """The row of what it takes to start with ``dataset``, whose targets are ``named`` so."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    data = load(dataset, normalize="data", args={"target": target})
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    size = dataset.tensors[0].numel() * 4 / 1024**2
    example = data.example()
    mean, std = torch.tensor(data.info.mean), torch.tensor(data.info.std)
    assert torch.allclose(example.input, (dataset.tensors[0][example.id] - mean) / std)
    what = f"TensorDataset, {len(dataset):,} samples of {size:.0f} MiB, {named} as targets"
    return [what, f"{seconds:.2f} s", "0.5 s", f"{grown:.0f} MiB"]


def write_files(folder: Path) -> None:
    """Write small images: ten that differ, by turns."""
    images = np.random.default_rng(0).integers(0, 256, (CLASSES, 8, 8, 3), dtype=np.uint8)
    for label in range(CLASSES):
        (folder / "train" / str(label)).mkdir(parents=True)
        Image.fromarray(images[label]).save(folder / "first.png")
        content = (folder / "first.png").read_bytes()
        for n in range(FILES // CLASSES):
            (folder / "train" / str(label) / f"{n}.png").write_bytes(content)
    (folder / "first.png").unlink()


def main() -> None:
    """Measure and write the page."""
    rows = []
    for name, (make, target) in CASES.items():
        loader, low, middle, high = measure(make)
        rows.append([name, f"{loader:.0f} us", f"x{middle:.2f} ({low:.2f} to {high:.2f})", f"x{target}"])
    starts = measure_start()
    report(
        "Loading",
        ["a batch of 64", "DataLoader", "Stillhouse, times that", "at most"],
        rows,
        [
            "Before anything is timed two epochs' batches are asserted to be, bit for bit, what the data set gives under each sample's own seed. "
            f"Processor time; medians of {TURNS[0]} interleaved turns of {TURNS[1]} batches, least to greatest in brackets.",
            "",
            "| start | processor time | less than | memory, beside the data |",
            "|---|---|---|---|",
            *("| " + " | ".join(row) + " |" for row in starts),
        ],
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
