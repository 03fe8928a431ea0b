"""Loaders from Python: what their batches become for each task, and what they cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ignite.distributed as idist
import pytest
import torch

from stillhouse.config.task import TaskSpec
from stillhouse.data import Data, DataSpec, load_data
from stillhouse.data.given import describe_given, read_given
from stillhouse.errors import StillhouseError
from stillhouse.tasks.builder import build_task

X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BOXES = [{"boxes": torch.tensor([[1.0, 1.0, 5.0, 6.0]]), "labels": torch.tensor([k % 2])} for k in range(4)]


class Batches:
    """Batches of one's own, which hear of the epoch."""

    def __init__(self, *batches: Any, classes: Any = None) -> None:
        self.batches, self.epochs = batches, []
        self.classes = classes

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


def opened(*batches: Any, task: str = "", **args: Any) -> Data:
    given = read_given({"train": Batches(*batches), "val": Batches(*batches)})
    spec = describe_given(DataSpec(name="", args=args), given)
    built = build_task(TaskSpec(name=task)) if task else None
    return load_data(spec, built, seed=0, given=given)


@pytest.mark.parametrize(
    ("task", "targets", "args", "kind"),
    [
        ("segmentation", torch.ones(4, 8, 8, dtype=torch.long), {"classes": 2, "ignore": 255}, "mask"),
        ("depth", torch.rand(4, 1, 8, 8), {}, "depth"),
        ("detection", BOXES, {"classes": ["car", "bicycle"]}, "boxes"),
        ("detection", {"boxes": torch.stack([b["boxes"] for b in BOXES]), "labels": torch.zeros(4, 1).long()},
         {"classes": ["car"]}, "boxes"),
        ("regression", torch.rand(4, 2), {}, "vector"),
        ("multi-label", torch.ones(4, 3), {}, "vector"),
        ("image-to-image", torch.rand(4, 3, 8, 8), {}, "image"),
        ("classification", torch.tensor([0, 1, 2, 1]), {"classes": 3}, "class"),
        ("classification", [0, 1, 2, 1], {"classes": 3}, "class"),
        ("classification", torch.tensor([[0], [1], [2], [1]]), {"classes": 3}, "class"),
        ("denoising", None, {}, "none"),
    ],
)  # fmt: skip
def test_every_task_makes_its_inputs_and_targets_of_batches(task: str, targets: Any, args: dict[str, Any], kind: str):
    data = opened((X, targets), task=task, **args)
    assert data.info.target == kind
    assert data.info.sizes == {"train": 4, "val": 4}
    batch = next(data.training())
    assert batch.input.shape == (4, 3, 8, 8)
    if task != "denoising":
        assert torch.equal(batch.input, X)
    if task == "detection":
        assert int(batch.target[0]["labels"]) == 1  # 0 is the background
    elif task == "classification":
        assert batch.target.tolist() == [0, 1, 2, 1]
    elif kind != "none":
        assert torch.equal(batch.target, targets.long() if kind == "mask" else targets)
    assert data.example(6).input.shape[0] == 6
    assert batch.id.tolist() == [0, 1, 2, 3]


def test_bytes_become_0_to_1_and_samples_are_numbered_through_an_epoch():
    raw = (X * 255).round().byte()
    data = opened((raw[:3], [0, 1, 0]), (raw[3:], [1]), classes=2)
    stream = data.training()
    batches = [next(stream) for _ in range(3)]
    assert torch.equal(batches[0].input, raw[:3].float() / 255)
    assert [batch.id.tolist() for batch in batches] == [[0, 1, 2], [3], [0, 1, 2]]
    assert next(data.training(start_step=1)).id.tolist() == [3]


def test_loaders_hear_of_the_epoch_and_are_not_gone_through_ahead():
    loader = Batches((X, [0, 1, 0, 1]))
    given = read_given(loader)
    data = load_data(describe_given(DataSpec(name="", args={"classes": 2}), given), seed=0, given=given)
    loader.epochs.clear()
    stream = data.training()
    for _ in range(3):
        next(stream)
    assert loader.epochs == [0, 1, 2]
    with pytest.raises(StillhouseError, match="the data has no split 'val'"):
        data.evaluation("val")
    data.close()


@pytest.mark.parametrize(
    ("batch", "args", "says"),
    [
        ((X, [0.5] * 4), {"target": "class", "classes": 2}, "must be 4 class indices .*got list"),
        ((X, torch.tensor([0, 1])), {"classes": 2}, "targets of 4 samples, got 2"),
        ((X.int(), [0] * 4), {"classes": 2}, r"uint8 \(0 to 255\) or floats, got \(4, 3, 8, 8\) torch.int32"),
        ((X[:0], []), {"target": "class", "classes": 2}, "the batch is empty"),
        (([X[0], X[1, :, :4]], [0, 1]), {"classes": 2}, r"one shape, got \(3, 4, 8\) and \(3, 8, 8\)"),
        ((X, torch.ones(2, 8, 8).long()), {"target": "mask", "classes": 2}, "targets of 4 samples, got 2"),
        ((X, 3), {"target": "mask", "classes": 2}, "targets of 4 samples, got int"),
        ("text", {"classes": 2}, r"a batch must be \(inputs, targets\), got str"),
        ((X, [0] * 4), {"classes": 2, "root": "x"}, r"data\.args\.root: unknown key 'root' of loaders"),
        ((X, torch.full((4, 8, 8), 7)), {"target": "mask", "classes": 2}, "mask values must be class indices"),
    ],
)
def test_batches_that_cannot_be_used_are_named(batch: Any, args: dict[str, Any], says: str):
    with pytest.raises(StillhouseError, match=says):
        opened(batch, task="segmentation" if args.get("target") == "mask" else "", **args)


def test_what_needs_samples_by_their_number_asks_for_the_data_set(monkeypatch: pytest.MonkeyPatch):
    data = opened((X, [0, 1, 0, 1]), classes=2)
    with pytest.raises(StillhouseError, match=r"no numbers.*hand over the data set"):
        _ = data.passes
    data.repeat_looks(0)
    with pytest.raises(StillhouseError, match="a loader's looks do not come again"):
        data.repeat_looks(2)
    with pytest.raises(StillhouseError, match="Segmentation needs targets of kind 'mask', got 'class'"):
        opened((X, [0, 1, 0, 1]), task="segmentation", classes=2)
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    with pytest.raises(StillhouseError, match="loaders are read by one process, and there are 2"):
        opened((X, [0, 1, 0, 1]), classes=2)
