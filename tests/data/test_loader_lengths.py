"""What a loader gives is measured to its last row, whatever its length, its samplers or its first batch let one think."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
    get_worker_info,
)

from stillhouse import Recipe, StillhouseError, StillhouseWarning, train
from stillhouse.config.data import DataSpec
from stillhouse.data import Data, load_data
from stillhouse.data.given import describe_given, read_given

X, Y = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 7 % 4
WHOLE = TensorDataset(X, Y)
PARTS = [(X[:20], Y[:20]), (X[20:40], Y[20:40]), (X[40:], Y[40:])]
RECIPE = {
    "run": {"epochs": 1, "device": "cpu", "figures": False},
    "data": {"name": "-", "batch_size": 20, "args": {"classes": 4}},
    "student": {"model": "-", "given": True},
    "watch": {"enabled": False},
}


class Bulk(Dataset[Any]):
    """Gives a batch for a list of numbers."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, rows: list[int]) -> Any:
        return X[rows], Y[rows]


class Stream(IterableDataset[Any]):
    """Samples in a row, shared out among workers."""

    def __len__(self) -> int:
        return 60

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        return ((X[i], int(Y[i])) for i in range(first, 60, step))


class Own:
    """A loader of one's own that may say another length than it has."""

    def __init__(self, length: int, *batches: Any) -> None:
        self.length, self.batches = length, batches

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


BATCHED = DataLoader(PARTS, batch_size=None)  # type: ignore[arg-type]  # a list is a data set


def opened(loader: Any) -> Data:
    given = read_given({"train": BATCHED, "val": loader})
    return load_data(describe_given(DataSpec(name="", args={"classes": 4}), given), seed=0, given=given)


@pytest.mark.parametrize(
    ("loader", "size"),
    [
        (BATCHED, 60),
        (DataLoader(Bulk(), batch_size=None, sampler=BatchSampler(SequentialSampler(range(60)), 20, False)), 60),
        (DataLoader(WHOLE, batch_sampler=[[0, 1, 2, 3], list(range(4, 30)), list(range(30, 60))]), 60),
        (DataLoader(WHOLE, batch_sampler=[[0], [1], list(range(2, 59)), [59]]), 60),
        (Own(3, (X[:4], Y[:4]), (X[4:30], Y[4:30]), (X[30:], Y[30:])), 12),  # nobody can tell, but by reading it
        (DataLoader(Stream(), batch_size=7, num_workers=2), 60),
        (DataLoader(WHOLE, batch_size=16), 60),
    ],
    ids=["batches", "bulk", "first smallest", "of one", "own", "workers", "ordinary"],
)
def test_every_row_is_measured(loader: Any, size: int):
    assert opened(loader).info.sizes == {"train": 60, "val": size}
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    result = train(Recipe.from_dict(RECIPE), data=(BATCHED, loader), student=student, plugins=[], write=False)
    with torch.no_grad():
        logits = student.eval()(X)
    assert result.metrics["val"]["loss"] == pytest.approx(F.cross_entropy(logits, Y).item(), rel=1e-6)
    assert result.metrics["val"]["accuracy"] == pytest.approx((logits.argmax(1) == Y).float().mean().item(), rel=1e-6)


def test_what_is_left_of_whole_batches_is_counted():
    assert opened(DataLoader(WHOLE, batch_size=16, drop_last=True)).info.sizes["val"] == 48


def test_batches_beyond_the_length_are_refused_where_they_would_not_be_measured():
    data = opened(Own(2, *PARTS))
    with pytest.raises(StillhouseError, match=r"data\['val'\]: goes on after the 2 batches of its length"):
        list(data.evaluation("val"))


def test_batches_beyond_the_length_are_spoken_of_once_where_they_are_not_trained_on():
    given = read_given(Own(2, *PARTS))
    data = load_data(describe_given(DataSpec(name="", args={"classes": 4}), given), seed=0, given=given)
    stream = data.training()
    with pytest.warns(
        StillhouseWarning, match="goes on after the 2 batches of its length: the others are left out"
    ) as told:
        batches = [next(stream) for _ in range(6)]
    assert len(told) == 1
    assert [batch.id[0].item() for batch in batches] == [0, 20] * 3


def test_an_error_of_a_loader_says_which_batch_it_made():
    class Breaks(Own):
        def __iter__(self) -> Iterator[Any]:
            yield PARTS[0]
            raise OSError("unplugged")

    stream = opened(Breaks(3)).evaluation("val")
    with pytest.raises(OSError, match="unplugged") as caught:
        list(stream)
    assert caught.value.__notes__ == ["in batch 1 of the loader data['val']"]


def test_workers_that_are_kept_give_the_same_batches_again():
    loader = DataLoader(WHOLE, batch_size=20, num_workers=1, persistent_workers=True, shuffle=True)
    given = read_given(loader)
    data: Any = load_data(describe_given(DataSpec(name="", args={}), given), seed=0, given=given)
    assert data.repeats
    del loader._iterator  # type: ignore[attr-defined]  # its worker ends
