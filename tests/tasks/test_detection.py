"""Detection: boxes of masks, average precision against cases worked out by hand, and a whole run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from stillhouse import Recipe, evaluate, export, train
from stillhouse.cli import main
from stillhouse.data import DataInfo
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.models import ModelSpec, build_model, convnet
from stillhouse.tasks import TaskSpec, build_task
from stillhouse.tasks.detection import Detection, find_boxes

INFO = DataInfo(3, ("void", "square", "bar"), (3, 32, 32), {"train": 4}, "", target="mask")
TASK = Detection(classes={"square": 1, "bar": 2}, min_area=4)


def shapes(times: int = 1, n: int = 4, size: int = 32) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Bright squares and dark bars on grey, with their masks; training sees each ``times`` an epoch."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for k in range(n):
        image, mask = torch.full((3, size, size), 0.5), torch.zeros(size, size, dtype=torch.uint8)
        y, x = torch.randint(1, size // 2 - 9, (2,), generator=generator).tolist()
        image[:, y : y + 8, x : x + 8], mask[y : y + 8, x : x + 8] = 1.0, 1
        if k % 2:
            image[:, size - 10 : size - 4, 4 : size - 4], mask[size - 10 : size - 4, 4 : size - 4] = 0.0, 2
        pairs.append((image + 0.02 * torch.randn(image.shape, generator=generator), mask))
    return {"train": pairs * times, "val": pairs}


def recipe(*plugins: dict[str, Any], times: int = 1, epochs: int = 1, **changes: Any) -> Recipe:
    return Recipe.from_dict(
        {
            "run": {
                "name": "boxes",
                "epochs": epochs,
                "device": "cpu",
                "threads": 1,
                "base": str(Path(__file__).parent),
            },
            "data": {
                "name": "test_detection:shapes",
                "args": {"times": times, "target": "mask", "classes": ["void", "square", "bar"]},
                "batch_size": 4,
                "normalize": "none",
            },
            "task": {"name": "detection", "args": {"classes": {"square": 1, "bar": 2}, "min_area": 4}},
            "student": {"model": "stillhouse.models:detector", "args": {"width": 8, "stages": 3, "channels": 32}},
            "optimizer": {"lr": 3e-3},
            "schedule": {"warmup": 0.1, "decay": "cosine"},
            "plugins": list(plugins),
            **changes,
        }
    )


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


# --- metrics -------------------------------------------------------------------------------------------------------

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


# --- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher", "layer"),
    [
        ({"model": "stillhouse.models:convnet", "args": {"num_classes": 5, "width": 12}}, "stage3"),
        (
            {"model": "stillhouse.models:detector", "args": {"width": 12, "stages": 3, "channels": 32}},
            "backbone.encoder.stage3",
        ),
    ],
)
def test_features_of_two_kinds_of_teachers_reach_a_detector(teacher: dict[str, Any], layer: str) -> None:
    links = [{"student": "backbone.encoder.stage3", "teacher": layer, "pool": "none"}]
    method = ({"use": "features", "links": links}, {"use": "projector"})
    result = train(recipe(*method, teacher={**teacher, "random": True}), write=False)
    assert set(result.metrics["val"]) == {"map", "map50", "recall"}
    assert 0.0 <= result.metrics["val"]["map"] <= 1.0


class Bright(nn.Module):
    """Finds the bright square, always, and no bar."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        if self.training:
            return {"nothing": self.weight.square()}
        found = [find_boxes((image[0] > 0.8).long(), (1,), 16) for image in images]
        return [{**boxes, "scores": torch.ones(len(boxes["labels"]))} for boxes in found]


def test_a_run_is_measured_and_exported_with_the_tasks_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(recipe(student={"model": "test_detection:Bright"}), out=tmp_path / "run")
    found = evaluate(tmp_path / "run")
    assert found.class_names == ("square", "bar")
    assert found.per_class == {"val": {"ap": pytest.approx([1.0, 0.0])}}
    assert found.metrics["val"] == pytest.approx({"map": 0.5, "map50": 0.5, "recall": 0.5})
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row for row in rows if row[:1] in (["class"], ["square"], ["bar"])] == [
        ["class", "ap"],
        ["square", "1.0000"],
        ["bar", "0.0000"],
    ]
    about = export(tmp_path / "run", tmp_path / "run.safetensors").metadata
    assert (about["classes"], about["class_names"], about["outputs"]) == (2, ["square", "bar"], 3)


@pytest.mark.slow
def test_it_overfits_generated_shapes() -> None:
    result = train(recipe(times=30, epochs=4), write=False)
    assert result.metrics["val"]["map50"] > 0.95
    assert result.metrics["val"]["map"] > 0.7
    image = shapes()["val"][1][0]
    with torch.no_grad():
        (found,) = result.student([image])
    objects = TASK.prediction(INFO, found)["objects"]
    assert [o["class"] for o in objects if o["score"] > 0.5] in (["square", "bar"], ["bar", "square"])
