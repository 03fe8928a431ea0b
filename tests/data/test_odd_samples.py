"""Data sets of one's own that draw in odd places, or hold tensors of odd kinds: read right, or refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from stillhouse.config.data import DataSpec
from stillhouse.data import Data, load_data
from stillhouse.data.given import describe_given, read_given
from stillhouse.data.sample_errors import is_finite
from stillhouse.errors import StillhouseError

X, Y = torch.rand(24, 3, 5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 4
WHOLE = TensorDataset(X, Y)


def opened(dataset: Any, **options: Any) -> Data:
    given = read_given((dataset, dataset))
    spec = DataSpec(name="", batch_size=6, normalize="none", **options)
    return load_data(describe_given(spec, given), seed=0, given=given)


def read_epoch(data: Data, epoch: int) -> Tensor:
    """Training's inputs of an epoch, by sample."""
    stream = data.training(epoch * data.steps_per_epoch)
    batches = [next(stream) for _ in range(data.steps_per_epoch)]
    order = torch.cat([batch.id for batch in batches]).argsort()
    return torch.cat([batch.input for batch in batches])[order]


class Noisy(Subset[Any]):
    """A subset that augments, as torch says to: both ways to read."""

    def __getitem__(self, i: Any) -> Any:
        x, y = self.dataset[self.indices[i]]
        return x + torch.randn(()), y

    def __getitems__(self, rows: list[int]) -> list[Any]:
        return [self[row] for row in rows]


class AtOnce(Dataset[Any]):
    """Augments what is read at once, and nothing else."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> Any:
        return WHOLE[i]

    def __getitems__(self, rows: list[int]) -> list[Any]:
        return [(X[row] + torch.rand(()), int(Y[row])) for row in rows]


@pytest.mark.parametrize("make", [lambda: Noisy(WHOLE, range(24)), AtOnce], ids=["subset", "at once"])
@pytest.mark.parametrize("cache", ["auto", "none"])
def test_what_draws_gives_other_looks_each_epoch_and_the_same_again(make: Any, cache: str):
    data = opened(make(), cache=cache)
    first, second = read_epoch(data, 0), read_epoch(data, 1)
    moved = (first - X).flatten(1).abs().amax(1)
    assert (moved > 0).all()
    assert not torch.equal(first, second)
    assert torch.equal(first, read_epoch(opened(make(), cache="none"), 0))


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (X.numpy().astype(">f4"), X),
        (X.numpy().astype(">f8"), X),
        (torch.view_as_complex(torch.stack([X, X], -1)).conj().imag, -X),  # a view whose sign is a bit
    ],
    ids=["big-endian", "big-endian doubles", "negated"],
)
def test_values_are_read_as_they_are_meant(x: Any, expected: Tensor):
    dataset: Any = [(image, int(y)) for image, y in zip(x, Y, strict=True)]
    for given in (dataset, TensorDataset(x, Y)) if isinstance(x, Tensor) else (dataset,):
        assert torch.equal(read_epoch(opened(given), 0), expected)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (X.to_sparse(), "the input must be a dense tensor, got one of layout sparse_coo"),
        (X.to("meta"), "the input must be a dense tensor, got a meta tensor"),
        (torch.zeros(24, 0, 5, 5), r"the input has no values: its shape is \(0, 5, 5\)"),
    ],
    ids=["sparse", "meta", "empty"],
)
@pytest.mark.parametrize("stacked", [True, False])
def test_inputs_without_values_are_refused_by_sample(x: Tensor, says: str, stacked: bool):
    dataset: Any = TensorDataset(x, Y) if stacked else [(image, int(y)) for image, y in zip(x, Y, strict=True)]
    with pytest.raises(StillhouseError, match=f"split 'train', sample 0: {says}"):
        opened(dataset)


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        (Subset(WHOLE, [1, 2, 99]), "split 'train', sample 2: .*IndexError"),
        ([(X[0], 1 << 70), (X[1], 0)], "split 'train', sample 0: the target must be a class index"),
    ],
    ids=["stale", "large"],
)
def test_samples_that_are_not_there_are_named(dataset: Any, says: str):
    with pytest.raises(StillhouseError, match=says):
        opened(dataset)


def test_an_attribute_that_cannot_be_read_lists_no_labels():
    class Lazy(TensorDataset):
        @property
        def targets(self) -> Any:
            raise OSError("not mounted")

    class Plain(Dataset[Any]):
        targets = Lazy.targets

        def __len__(self) -> int:
            return 24

        def __getitem__(self, i: int) -> Any:
            return X[i], int(Y[i])

    assert opened(Plain(), args={"target": "class"}).info.classes == 4


@pytest.mark.parametrize(
    "names", [["a", "b", "c", "d", "e"], np.array(["a", "b", "c", "d", "e"])], ids=["list", "array"]
)
def test_names_of_classes_may_be_an_array(names: Any):
    dataset = TensorDataset(X, Y)
    dataset.classes = names  # type: ignore[attr-defined]
    assert opened(dataset).info.class_names == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    "lay", [lambda x: x.transpose(2, 3), lambda x: x.contiguous(memory_format=torch.channels_last)]
)
def test_looking_for_what_is_not_finite_finds_it_wherever_it_lies(lay: Any):
    x = lay(torch.zeros(2000, 3, 20, 20))
    assert not x.is_contiguous()
    assert is_finite(x)
    for row in (0, 999, 1999):
        x[row, 1, 2, 3] = float("nan")
        assert not is_finite(x)
        x[row, 1, 2, 3] = 0.0
    x[700, 0, 0, 0] = float("inf")
    assert not is_finite(x)
