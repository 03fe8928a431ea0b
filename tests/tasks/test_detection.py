"""Detection: boxes of masks, how models are called and trained, and what is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.shapes import shapes
from torch import Tensor, nn

from stillhouse.data import DataInfo
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.models import ModelSpec, build_model, convnet
from stillhouse.tasks import TaskSpec, build_task
from stillhouse.tasks.detection import Detection, find_boxes

INFO = DataInfo(3, ("void", "square", "bar"), (3, 32, 32), {"train": 4}, "", target="mask")
TASK = Detection(classes={"square": 1, "bar": 2}, min_area=4)


# --- targets -------------------------------------------------------------------------------------------------------


def test_boxes_go_around_connected_pieces() -> None:
    mask = torch.zeros(8, 10, dtype=torch.int64)
    mask[1:3, 2:5] = 7  # 2 x 3
    mask[4, 1], mask[5, 2], mask[6, 3] = 7, 7, 7  # touch at corners: one piece of 3 pixels
    mask[7, 9] = 3
    found = find_boxes(mask, (3, 7))
    assert found["boxes"].tolist() == [[9, 7, 10, 8], [2, 1, 5, 3], [1, 4, 4, 7]]
    assert found["labels"].tolist() == [1, 2, 2]
    assert (found["boxes"].dtype, found["labels"].dtype) == (torch.float32, torch.int64)
    assert find_boxes(mask, (3, 7), min_area=4)["boxes"].tolist() == [[2, 1, 5, 3]]
    none = find_boxes(mask, (5,))
    assert (tuple(none["boxes"].shape), tuple(none["labels"].shape)) == ((0, 4), (0,))


def test_boxes_agree_with_a_flood_fill() -> None:
    mask = torch.from_numpy((np.random.default_rng(0).random((20, 24)) < 0.3).astype(np.int64))
    left = {(int(y), int(x)) for y, x in mask.nonzero()}
    expected = []
    while left:
        piece, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            piece.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        if len(piece) >= 3:
            ys, xs = zip(*piece, strict=True)
            expected.append([min(xs), min(ys), max(xs) + 1, max(ys) + 1])
    assert len(expected) > 3
    assert sorted(find_boxes(mask, (1,), 3)["boxes"].tolist()) == sorted(expected)


def test_a_sample_of_boxes_counts_its_labels_from_one() -> None:
    boxes = {"boxes": torch.tensor([[1.0, 2, 3, 4]]), "labels": torch.tensor([0])}
    _, target = Detection().sample(torch.zeros(3, 8, 8), boxes)
    assert (target["boxes"].tolist(), target["labels"].tolist()) == ([[1, 2, 3, 4]], [1])
    assert Detection().outputs(INFO) == 4
    assert TASK.outputs(INFO) == 3
    with pytest.raises(StillhouseError, match=r"task\.args\.classes: targets that are masks need the classes"):
        Detection().sample(torch.zeros(3, 8, 8), torch.zeros(8, 8))


@pytest.mark.parametrize(
    ("args", "fault"),
    [
        ({"classes": {"car": -1}}, "task.args.classes.car: must be >= 0, got -1"),
        ({"classes": {"car": 1, "bus": 1}}, "task.args.classes: must have distinct indices"),
        ({"classes": {"car": "red"}}, "task.args.classes.*: must be a whole number, got 'red'"),
        (
            {"min_area": 0, "min_score": 2.0},
            "min_area: must be >= 1, got 0.*\n.*min_score: must be in \\[0, 1\\], got 2.0",
        ),
    ],
)
def test_options_are_checked(args: dict[str, Any], fault: str) -> None:
    with pytest.raises(StillhouseError, match=fault):
        build_task(TaskSpec(name="detection", args=args))


# --- models --------------------------------------------------------------------------------------------------------


def targets() -> list[dict[str, Tensor]]:
    return [TASK.sample(image, mask)[1] for image, mask in shapes()["train"]]


def inputs() -> Tensor:
    return torch.stack([image for image, _ in shapes()["train"]])


def test_a_detector_is_called_with_lists_and_others_with_the_batch() -> None:
    seen: list[Any] = []

    class Model(nn.Module):
        def forward(self, images: Any, targets: Any = None) -> Any:
            seen.append((images, targets))

    model, batch, boxes = Model(), inputs(), targets()
    TASK.call(model, batch, boxes)
    TASK.call(model.eval(), batch, boxes)
    TASK.call(model.train(), batch, None)
    assert [t is boxes for _, t in seen] == [True, False, False]
    assert all(isinstance(images, list) and torch.equal(torch.stack(images), batch) for images, _ in seen)
    plain = convnet(4)
    torch.testing.assert_close(TASK.call(plain.eval(), batch, None), plain(batch))


def test_the_loss_is_the_sum_of_the_models() -> None:
    losses = {"a": torch.tensor(1.5), "b": torch.tensor(2.0, dtype=torch.bfloat16)}
    total = TASK.loss(losses, targets())
    assert (float(total), total.dtype) == (3.5, torch.float32)


SMALL = {"min_size": 64, "max_size": 64, "box_batch_size_per_image": 8, "rpn_post_nms_top_n_test": 8}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("torchvision:ssdlite320_mobilenet_v3_large", {}),
        ("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", SMALL),
        ("stillhouse.models:detector", {}),
    ],
)
def test_detectors_train_and_find(name: str, args: dict[str, Any]) -> None:
    spec = ModelSpec(model=name, args=args)
    model = build_model(spec, INFO, seed=0, where="student", outputs=TASK.outputs(INFO)).train()
    losses = TASK.call(model, inputs(), targets())
    TASK.check(losses, targets(), INFO)
    TASK.loss(losses, targets()).backward()
    assert sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None) > 0
    with torch.no_grad():
        found = TASK.call(model.eval(), inputs(), targets())
    assert [set(f) >= {"boxes", "labels", "scores"} for f in found] == [True] * 4


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(StillhouseError, match=r"student: detection needs a dict of losses in training, got Tensor"):
        TASK.check(torch.zeros(2, 3), targets(), INFO)
    losses = {"a": torch.tensor(1.0)}
    with pytest.raises(StillhouseError, match=r"classes\.tram: must be a class of the masks, 0 to 2, got 5"):
        Detection(classes={"tram": 5}).check(losses, targets(), INFO)
    spec = ModelSpec(model="torchvision:maskrcnn_resnet50_fpn", args={"min_size": 32, "max_size": 32})
    model = build_model(spec, INFO, seed=0, where="student", outputs=3).train()
    with pytest.raises(StillhouseError, match=r"training on boxes and labels fails: ValueError: .*masks"):
        TASK.call(model, inputs(), targets())


def test_twice_normalised_inputs_are_told() -> None:
    normalised = DataInfo(3, INFO.class_names, (3, 32, 32), {}, "", (0.5,) * 3, (0.2,) * 3, "mask")
    with pytest.warns(StillhouseWarning, match=r'set \[data\] normalize = "none"'):
        TASK.check({"a": torch.tensor(1.0)}, targets(), normalised)


# --- what is shown -------------------------------------------------------------------------------------------------


def test_predictions_and_pictures() -> None:
    output = {
        "boxes": torch.tensor([[1.0, 2, 9, 10], [4, 4, 8, 8], [0, 20, 31.26, 26]]),
        "labels": torch.tensor([1, 1, 2]),
        "scores": torch.tensor([0.6, 0.4, 0.93]),
    }
    assert TASK.prediction(INFO, output) == {
        "objects": [
            {"class": "bar", "score": pytest.approx(0.93), "box": [0, 20, pytest.approx(31.3), 26]},
            {"class": "square", "score": pytest.approx(0.6), "box": [1, 2, 9, 10]},
        ]
    }
    image = torch.full((1, 32, 32), 0.5)
    picture = np.asarray(TASK.picture(INFO, image, output)).astype(int)
    plain = np.asarray(TASK.picture(INFO, image, {k: v[:0] for k, v in output.items()})).astype(int)
    left, right = np.split(np.abs(picture - plain).sum(-1) > 0, 2, axis=1)
    assert right.any()
    assert not left.any()
    figures = TASK.figures(INFO, inputs(), [output] * 4, targets())
    assert [len(f.axes) for f in figures.values()] == [8]
