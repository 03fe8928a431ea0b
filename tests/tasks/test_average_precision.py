"""Average precision against cases worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from stillhouse.data import DataInfo
from stillhouse.tasks.detection import Detection

INFO = DataInfo(3, ("void", "square", "bar"), (3, 32, 32), {"train": 4}, "", target="mask")
TASK = Detection(classes={"square": 1, "bar": 2}, min_area=4)

Box = tuple[float, float, float, float]


Images = list[tuple[list[tuple[Box, int, float]], list[tuple[Box, int]]]]


def measured(images: Images, batches: int = 1) -> dict[str, float]:
    """The metrics of images given as (found: box, label, score; true: box, label)."""
    found = by_name(images, batches)
    return {name: float(found[name]) for name in ("map", "map50", "recall")}


def by_name(images: Images, batches: int = 1, task: Detection = TASK) -> dict[str, Any]:
    """All of them."""
    states = []
    for found, true in images:
        output = {
            "boxes": torch.tensor([b for b, _, _ in found]).reshape(-1, 4),
            "labels": torch.tensor([k for _, k, _ in found], dtype=torch.int64),
            "scores": torch.tensor([s for _, _, s in found]),
        }
        target = {
            "boxes": torch.tensor([b for b, _ in true]).reshape(-1, 4),
            "labels": torch.tensor([k for _, k in true], dtype=torch.int64),
        }
        states.append((output, target))
    size = math.ceil(len(states) / batches)
    parts = [states[k : k + size] for k in range(0, len(states), size)]
    engine = Engine(lambda _engine, part: {"output": [o for o, _ in part], "target": [t for _, t in part]})
    for name, metric in task.metrics(INFO).items():
        metric.attach(engine, name)
    engine.run(parts)
    once = dict(engine.state.metrics)
    engine.run(parts[:1])
    engine.run(parts)  # nothing of another split is left
    np.testing.assert_equal({k: np.asarray(v) for k, v in engine.state.metrics.items()}, once)
    return once


A: Box = (0.0, 0.0, 10.0, 10.0)
B: Box = (20.0, 0.0, 30.0, 10.0)
FAR: Box = (50.0, 50.0, 60.0, 60.0)


def test_perfect_boxes() -> None:
    images: list[Any] = [([(A, 1, 0.9), (B, 2, 0.3)], [(A, 1), (B, 2)]), ([(B, 1, 0.8)], [(B, 1)])]
    assert measured(images) == pytest.approx({"map": 1.0, "map50": 1.0, "recall": 1.0})
    assert measured(images, batches=2) == pytest.approx({"map": 1.0, "map50": 1.0, "recall": 1.0})


def test_one_of_two_is_missed() -> None:
    # Precision 1 up to recall 0.5: 51 of COCO's 101 recall thresholds.
    found = measured([([(A, 1, 0.9)], [(A, 1), (B, 1)])])
    assert found == pytest.approx({"map": 51 / 101, "map50": 51 / 101, "recall": 0.5})


def test_a_false_alarm_counts_by_its_score() -> None:
    # Before the hit it halves the precision at every recall; after it, it comes too late to matter.
    assert measured([([(FAR, 1, 0.9), (A, 1, 0.5)], [(A, 1)])])["map"] == pytest.approx(0.5)
    assert measured([([(FAR, 1, 0.3), (A, 1, 0.5)], [(A, 1)])])["map"] == pytest.approx(1.0)
    # Between two hits: precision 1 to recall 0.5, then 2/3.
    hits = [(A, 1, 0.9), (FAR, 1, 0.7), (B, 1, 0.5)]
    assert measured([(hits, [(A, 1), (B, 1)])])["map50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_scores_are_ordered_over_all_images() -> None:
    images: list[Any] = [([(A, 1, 0.6)], [(A, 1)]), ([(FAR, 1, 0.9)], [(A, 1)])]
    # By score: false, then true at recall 0.5 with precision 1/2.
    assert measured(images)["map"] == pytest.approx(51 * 0.5 / 101)


def test_a_second_box_on_the_same_object_is_false() -> None:
    found = measured([([(A, 1, 0.9), (A, 1, 0.8), (B, 1, 0.7)], [(A, 1), (B, 1)])])
    assert found["map50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_thresholds_of_overlap() -> None:
    # (0, 0, 10, 10) against (0, 0, 10, 7.2): IoU 0.72 passes 0.5, 0.55, ..., 0.7, five of the ten.
    found = measured([([((0.0, 0.0, 10.0, 7.2), 1, 0.9)], [(A, 1)])])
    assert found == pytest.approx({"map": 0.5, "map50": 1.0, "recall": 0.5})
    assert measured([([((0.0, 0.0, 10.0, 4.9), 1, 0.9)], [(A, 1)])])["map50"] == 0.0


def test_the_wrong_class_finds_nothing_and_classes_count_alike() -> None:
    assert measured([([(A, 2, 0.9)], [(A, 1)])])["map50"] == 0.0
    # Class 1 is found in three images, class 2 missed in one: the mean of 1 and 0.
    images: list[Any] = [([(A, 1, 0.9)], [(A, 1)])] * 3 + [([], [(B, 2)])]
    assert measured(images)["map50"] == pytest.approx(0.5)


def test_average_precision_by_class() -> None:
    # Of class 1 one of two is found: 51 of 101 thresholds. Class 2 is found with IoU 0.72: five of ten.
    images: list[Any] = [([(A, 1, 0.9)], [(A, 1), (B, 1)]), ([((0.0, 0.0, 10.0, 7.2), 2, 0.8)], [(A, 2)])]
    for batches in (1, 2):
        found = by_name(images, batches)
        assert found["ap"].tolist() == pytest.approx([51 / 101, 0.5])
        assert found["map"] == pytest.approx((51 / 101 + 0.5) / 2)
    # A class that the split does not have is in no mean, whatever is found of it; one that is missed is.
    (first, second) = by_name([([(A, 1, 0.9), (B, 2, 0.9)], [(A, 1)])])["ap"].tolist()
    assert (first, math.isnan(second)) == (pytest.approx(1.0), True)
    assert by_name([([(A, 1, 0.9)], [(A, 1), (B, 2)])])["ap"].tolist() == pytest.approx([1.0, 0.0])
    assert "ap" not in by_name([([(A, 1, 0.9)], [(A, 1)])], task=Detection(classes={"square": 1}))


def test_images_without_boxes() -> None:
    assert measured([([], [(A, 1)]), ([], [])]) == {"map": 0.0, "map50": 0.0, "recall": 0.0}
    assert measured([([(A, 1, 0.9)], []), ([(A, 1, 0.5)], [(A, 1)])])["map50"] == pytest.approx(0.5)
    assert all(math.isnan(value) for value in measured([([], [])]).values())
