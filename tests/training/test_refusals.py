"""What is refused before or while a run begins leaves one clear message and nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import TinyNet, recipe, tiny_data
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from stillhouse import StillhouseError, prepare, train
from stillhouse.config.task import TaskSpec
from stillhouse.data import DataSpec, load_data
from stillhouse.tasks import build_task


class Vectors(list[Any]):
    """A map-style data set of (input, vector)."""


def vectors(change: Callable[[list[Any]], None] | None = None) -> dict[str, Vectors]:
    """Twelve images with vectors of three numbers."""
    items = [(torch.rand(1, 6, 6), [0.0, 1.0, 0.0]) for _ in range(12)]
    if change is not None:
        change(items)
    return {"train": Vectors(items), "val": Vectors(items[:2])}


def longer() -> dict[str, Vectors]:
    def change(items: list[Any]) -> None:
        items[5] = (items[5][0], [0.0, 1.0, 0.0, 1.0])

    return vectors(change)


def negative() -> dict[str, Vectors]:
    def change(items: list[Any]) -> None:
        items[7] = (items[7][0], [0.0, -3.0, 0.0])

    return vectors(change)


def blind() -> dict[str, TensorDataset]:
    """Images of nothing but NaN."""
    return {k: TensorDataset(torch.full_like(d.tensors[0], torch.nan), d.tensors[1]) for k, d in tiny_data().items()}


class Asserting(TinyNet):
    """Says as torch and timm do that an image does not suit it."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == 224, "Input height (6) doesn't match model (224)."
        return super().forward(x)


class Unsound(TinyNet):
    """Gives NaN from the start."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.nan


class PooledNorm(nn.Module):
    """A BatchNorm over one position, which needs two samples."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(36), nn.Linear(36, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x.flatten(1)))


HERE = Path(__file__).parent


def refused(out: Path, **changes: Any) -> str:
    changed = recipe(teacher=None, run__base=str(HERE), **changes)
    with pytest.raises(StillhouseError) as error:
        train(changed, out=out / "run")
    assert not (out / "run").exists()
    return str(error.value)


def test_a_vector_of_another_length_is_named(tmp_path: Path):
    text = refused(tmp_path, data={"name": "test_refusals:longer", "batch_size": 4}, task={"name": "multi-label"})
    assert "sample 5: the target must have 3 numbers as the first sample's, got 4" in text


def test_a_label_that_is_no_share_is_named(tmp_path: Path):
    text = refused(tmp_path, data={"name": "test_refusals:negative", "batch_size": 4}, task={"name": "multi-label"})
    assert "sample 7: the target must be in [0, 1]" in text


def test_boxes_that_leave_the_image_are_named():
    def boxes(right: float) -> dict[str, Vectors]:
        target = {"boxes": torch.tensor([[0.0, 0.0, right, 5.0]]), "labels": [0]}
        return {"train": Vectors([(torch.rand(3, 6, 6), target)] * 4), "val": Vectors([(torch.rand(3, 6, 6), target)])}

    import types

    module = types.ModuleType("framed")
    module.inside, module.outside = (lambda: boxes(6.5)), (lambda: boxes(99.0))  # type: ignore[attr-defined]
    task = build_task(TaskSpec(name="detection"))
    import sys

    sys.modules["framed"] = module
    try:
        args = {"target": "boxes", "classes": ["a"]}
        load_data(DataSpec(name="framed:inside", args=args, normalize="none"), task, seed=0)
        with pytest.raises(
            StillhouseError, match=r"boxes must lie in their image, .*: 5 of 5 do not, such as 0, 0, 99, 5 in 6x6"
        ):
            load_data(DataSpec(name="framed:outside", args=args, normalize="none"), task, seed=0)
    finally:
        del sys.modules["framed"]


def test_a_model_that_asserts_says_why(tmp_path: Path):
    text = refused(tmp_path, student={"model": "test_refusals:Asserting"})
    assert "the student cannot take inputs of shape (2, 1, 6, 6): Input height (6) doesn't match model (224)" in text


def test_values_that_are_not_finite_are_found_before_training(tmp_path: Path):
    text = refused(tmp_path, student={"model": "test_refusals:Unsound"})
    assert "its output is not finite before anything is trained" in text
    text = refused(tmp_path, data={"name": "test_refusals:blind", "normalize": "none"})
    assert "blind, split 'train', sample 0: the input must be finite: 36 of 36 values are NaN" in text


def test_one_sample_under_a_batchnorm_is_named_and_leaves_no_folder(tmp_path: Path):
    text = refused(tmp_path, student={"model": "test_refusals:PooledNorm"}, data__batch_size=1)
    assert text.startswith("data.batch_size: a BatchNorm of the student has one value a channel")


def test_more_parts_than_pairs_of_samples_are_refused(tmp_path: Path):
    text = refused(tmp_path, run__accumulate=5)
    assert "run.accumulate: a batch of 8 has no 5 parts of at least two samples (at most 4" in text


def test_a_run_that_has_a_checkpoint_stays(tmp_path: Path):
    training = prepare(recipe(teacher=None, run__epochs=3), out=tmp_path / "run")
    from ignite.engine import Events

    def refuse() -> None:
        raise StillhouseError("no more")

    training.run.trainer.add_event_handler(Events.EPOCH_STARTED(once=2), refuse)
    with pytest.raises(StillhouseError, match="no more"):
        training.fit()
    assert list((tmp_path / "run" / "checkpoints").glob("last_*.pt"))
