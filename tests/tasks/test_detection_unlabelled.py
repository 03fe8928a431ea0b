"""Detection with unlabelled images: whose boxes are counted, whose features, and that runs go on and are shared exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import interrupted, same_state
from support.detectors import detection_tables, small_faster_rcnn, small_retinanet, small_ssd
from support.process_support import alone, check_curves, found, start
from torch import Tensor, nn

from stillhouse import Recipe, StillhouseError, prepare
from stillhouse.data import PartlyLabelled
from stillhouse.loop.phases import Phase
from stillhouse.models.nets.detector import detector
from stillhouse.tasks.detection import Detection

OWN: dict[str, Any] = {"width": 8, "stages": 3, "channels": 32, "image_size": 64, "norm": "group"}
LAYER = "backbone.encoder.stage3"
FEATURES = (
    {"use": "features", "weight": 3.0, "links": [{"student": LAYER, "teacher": LAYER, "pool": "none"}]},
    {"use": "projector", "kind": "linear"},
)
CLASSIFIER = {"model": "stillhouse.models:convnet", "args": {"num_classes": 5, "width": 12}, "random": True}
"""Its answers can be kept: a detector's are lists of boxes."""
OF_CLASSIFIER = ({**FEATURES[0], "links": [{"student": LAYER, "teacher": "stage3", "pool": "none"}]}, FEATURES[1])
TEACHER = {"model": "stillhouse.models:detector", "args": {**OWN, "width": 12}, "random": True}


def tables(*plugins: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Four of twelve images with their boxes, and as many without in each batch."""
    data = {"limit": 4, "pool": "rest", **changes.pop("data", {})}
    made = detection_tables("stillhouse.models:detector", args=OWN, n=12, **{"teacher": TEACHER, **changes})
    return {**made, "data": {**made["data"], **data}, "plugins": list(plugins)}


def own_detector(num_classes: int) -> nn.Module:
    return detector(num_classes, **OWN)


def make_images() -> tuple[Tensor, list[dict[str, Tensor]]]:
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    boxes = [[[4.0, 8.0, 30.0, 40.0], [20.0, 20.0, 60.0, 50.0]], [[10.0, 5.0, 44.0, 60.0]]]
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    told = [{"boxes": torch.tensor(b), "labels": torch.ones(len(b), dtype=torch.int64)} for b in boxes]
    return images, [*told, none, none, none]


@pytest.mark.parametrize("make", [own_detector, small_ssd, small_retinanet, small_faster_rcnn])
def test_losses_are_those_of_the_labelled_images_and_all_go_through_the_backbone(make: Any):
    torch.manual_seed(0)
    model = make(3).train()
    images, told = make_images()
    seen: list[int] = []
    model.backbone.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    torch.manual_seed(5)  # two stages draw proposals
    alone = Detection().call(model, images[:2], told[:2])
    torch.manual_seed(5)
    both = Detection().call(model, images, PartlyLabelled(told, [True, True, False, False, False], (2, 5)))
    assert seen == [2, 5]
    assert alone.keys() == both.keys()
    for name, loss in alone.items():
        torch.testing.assert_close(both[name], loss, rtol=1e-4, atol=1e-6)
    torch.manual_seed(5)
    again = Detection().call(model, images[:2], told[:2])  # nothing of it stays with the model
    assert all(torch.equal(again[name], loss) for name, loss in alone.items())


def test_a_part_without_labelled_images_has_no_loss():
    training = prepare(Recipe.from_dict(tables(*FEATURES)), write=False)
    task, model = training.run.task, own_detector(3).train()
    images, told = make_images()
    targets = PartlyLabelled(told, [False] * 5, (2, 10))
    loss = task.loss(task.call(model, images, targets), targets)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


class Own(nn.Module):
    """Somebody's own detector."""

    def forward(self, images: list[Tensor], targets: Any = None) -> Any:
        return {"loss": torch.stack([x.mean() for x in images]).sum()}


def test_a_detector_of_an_unknown_kind_is_refused():
    images, told = make_images()
    with pytest.raises(StillhouseError, match="Own cannot be told which images have no boxes"):
        Detection().call(Own().train(), images, PartlyLabelled(told, [True] * 2 + [False] * 3, (2, 5)))


def first_step(recipe: dict[str, Any], **options: Any) -> tuple[Any, dict[str, Tensor], dict[str, float]]:
    """The run, its student's gradients in the first step, and that step's losses."""
    training = prepare(Recipe.from_dict(recipe), write=False, **options)
    gradients: dict[str, Tensor] = {}
    losses: dict[str, float] = {}

    def keep() -> None:
        if not losses:
            named = training.run.student.named_parameters()
            gradients.update({name: p.grad.clone() for name, p in named if p.grad is not None})
            losses.update({k: float(v.detach()) for k, v in training.run.trainer.state.step.losses.items()})

    training.run.trainer.add_event_handler(Phase.BACKWARD_COMPLETED, keep)
    training.fit()
    return training, gradients, losses


@pytest.mark.parametrize("terms", ["all", "labelled"])
def test_the_task_counts_labelled_images_and_the_plugins_all(terms: str):
    torch.manual_seed(0)
    student, teacher = own_detector(3), detector(3, **OWN)
    reference = own_detector(3).double().train()
    reference.load_state_dict(student.state_dict())
    made = tables(FEATURES[0], data={"terms": terms})
    batch = prepare(Recipe.from_dict(made), student=own_detector(3), teacher=teacher, write=False).first_batch()
    _, gradients, losses = first_step(made, student=student, teacher=teacher)
    n = batch.target.number
    assert (n, len(batch.id)) == (4, 8)
    told = [{"boxes": t["boxes"].double(), "labels": t["labels"]} for t in batch.target.values[:n]]
    x = batch.input.double()
    task = sum(reference(list(x[:n]), told).values())
    counted = slice(None) if terms == "all" else slice(n)
    own = _encode(reference, x)[counted]
    with torch.no_grad():
        said = _encode(teacher.double(), x)[counted]
    term = F.mse_loss(own, said)
    (task + 3.0 * term).backward()
    assert losses["task"] == pytest.approx(float(task.detach()), rel=1e-5)
    assert losses["features"] == pytest.approx(float(term.detach()), rel=1e-4)
    for name, parameter in reference.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name].double(), parameter.grad, rtol=1e-3, atol=1e-6)


def _encode(model: Any, x: Tensor) -> Tensor:
    """The last of three stages."""
    maps: Tensor = model.backbone.encoder.maps(model.transform(list(x))[0].tensors)[2]
    return maps


def test_parts_of_a_batch_give_the_terms_of_the_whole():
    (_, _, whole), (_, _, parts) = (first_step(tables(*FEATURES, run={"accumulate": parts})) for parts in (1, 2))
    assert parts["features"] == pytest.approx(whole["features"], rel=1e-4)


def test_two_processes_give_what_one_gives(tmp_path: Path):
    made = tables(*FEATURES, run={"epochs": 3}, optimizer={"name": "sgd", "lr": 5e-4})
    curve, result = alone(made)
    ended = start(made, tmp_path / "two")
    assert [code for code, _ in ended] == [0, 0], ended
    first = found(tmp_path / "two")
    check_curves(np.array(first["curve"]), curve)
    assert first["metrics"]["val"] == pytest.approx(result.metrics["val"], rel=1e-3, abs=1e-3)


def test_it_resumes_bit_for_bit_in_the_middle_of_an_epoch_with_a_cached_teacher(tmp_path: Path):
    data = {"batch_size": 2, "transforms": [{"use": "RandomHorizontalFlip"}]}
    made = tables(
        {"use": "cache", "views": 2},
        *OF_CLASSIFIER,
        teacher=CLASSIFIER,
        run={"epochs": 3},
        data=data,
        checkpoints={"every_steps": 1},
    )
    recipe = Recipe.from_dict(made)
    whole = prepare(recipe, write=False)
    result = whole.fit()
    interrupted(prepare(recipe, out=tmp_path / "run"), at=3)
    second = prepare(recipe, out=tmp_path / "run", resume=True)
    resumed = second.fit()
    assert resumed.summary["resumed_at_step"] == 3
    assert same_state(whole.run.composition.state_dict(), second.run.composition.state_dict())
    assert resumed.metrics == result.metrics


def test_a_cached_teacher_says_what_a_live_one_says():
    live, cached = (
        first_step(tables(*more, *OF_CLASSIFIER, teacher=CLASSIFIER))[2]
        for more in ((), ({"use": "cache", "store": "float32"},))
    )
    assert cached == pytest.approx(live, rel=1e-5)


def test_photographs_beside_a_table_of_boxes_have_none(tmp_path: Path):
    from PIL import Image

    for k in range(16):
        pixels = np.random.default_rng(k).integers(0, 255, (40 + 4 * k, 64, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{k}.png")
    rows = [f"{k}.png,{'ab'[k % 2]},2,3,{30 + k},38" for k in range(16)]
    (tmp_path / "boxes.csv").write_text("image,label,x1,y1,x2,y2\n" + "\n".join(rows))
    data = {"name": "table:boxes.csv", "args": {"target": "boxes"}, "size": 64, "limit": None, "pool": "none"}
    data |= {"unlabelled": "photos:photos", "unlabelled_args": {"images": "*.png"}, "val_fraction": 0.4}
    made = tables(*FEATURES, data=data)
    made["run"]["base"] = str(tmp_path)
    batch = prepare(Recipe.from_dict(made), write=False).first_batch()
    n = batch.target.number
    assert [len(told["boxes"]) for told in batch.target.values] == [1] * n + [0] * n
