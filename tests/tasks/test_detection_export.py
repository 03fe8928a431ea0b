"""A detector as a program: all the boxes it considers, from which the documented choice makes what the student finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from support.detectors import detection_tables, scenes, small_faster_rcnn
from torch import Tensor, nn
from torchvision.ops import batched_nms

from stillhouse import Recipe, StillhouseError, export, load_student, train
from stillhouse.tasks.candidates import Candidates

OWN = {"width": 8, "stages": 2, "channels": 32, "image_size": 64}


def detections(boxes: Tensor, scores: Tensor, choice: dict[str, Any]) -> dict[str, Tensor]:
    """What the candidates (N, 4) and (N, K) of one image come to, by the words of the metadata."""
    index, labels = (scores > choice["score_thresh"]).nonzero(as_tuple=True)
    boxes, scores = boxes[index], scores[index, labels]
    assert len(scores) <= choice["topk_candidates"]
    kept = batched_nms(boxes, scores, labels, choice["nms_thresh"])[: choice["detections_per_img"]]
    return {"boxes": boxes[kept], "labels": labels[kept], "scores": scores[kept]}


def computed(file: Path, x: Tensor) -> list[Tensor]:
    """The outputs of a program, by its own runtime."""
    if file.suffix == ".pt2":
        with torch.no_grad():
            return list(torch.export.load(file).module()(x))
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == ["boxes", "scores"]
    return [torch.from_numpy(value) for value in session.run(None, {"input": x.numpy()})]


NEEDS_2_7 = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.7"),
    reason="an older torch.export takes no anchors that are kept in a module",
)


@pytest.mark.parametrize(
    ("model", "args"),
    [
        pytest.param("stillhouse.models:detector", OWN, marks=NEEDS_2_7),
        # resized and padded by torchvision
        pytest.param("stillhouse.models:detector", {**OWN, "image_size": [48, 80]}, marks=pytest.mark.slow),
        ("support.detectors:small_ssd", {}),
        pytest.param("support.detectors:small_retinanet", {"score_thresh": 0.006}, marks=pytest.mark.slow),
    ],
)
def test_candidates_come_to_what_the_student_finds(model: str, args: dict[str, Any], tmp_path: Path) -> None:
    optimizer = {"lr": 3e-3}
    train(Recipe.from_dict(detection_tables(model, args=args, n=96, optimizer=optimizer)), out=tmp_path / "run")
    student = load_student(tmp_path / "run")
    x = torch.stack([image for image, _ in (scenes()["val"][i] for i in range(3))])
    with torch.no_grad():
        wanted = student(list(x))
    assert sum(len(found["boxes"]) for found in wanted) > 0
    for name in ("s.pt2", "s.onnx"):
        if name == "s.onnx":
            pytest.importorskip("onnxscript")
        done = export(tmp_path / "run", tmp_path / name)
        assert done.metadata["output"].startswith("boxes (B, N, 4)")
        boxes, scores = computed(tmp_path / name, x)
        for k, expected in enumerate(wanted):
            found = detections(boxes[k], scores[k], done.metadata["choice"])
            torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-3, atol=1e-6)
            # Scores that are nearly the same may change places.
            same = torch.cdist(found["boxes"], expected["boxes"], p=torch.inf) < 0.05
            same &= found["labels"][:, None] == expected["labels"]
            assert bool(same.any(0).all() & same.any(1).all())


def test_two_stages_leave_as_weights_only(tmp_path: Path) -> None:
    train(Recipe.from_dict(detection_tables("support.detectors:small_faster_rcnn")), out=tmp_path / "run")
    for name in ("s.pt2", "s.onnx"):
        with pytest.raises(
            StillhouseError,
            match=r"student: a program needs outputs of fixed shape, and FasterRCNN gives lists of boxes whose number depends",
        ):
            export(tmp_path / "run", tmp_path / name)
    assert export(tmp_path / "run", tmp_path / "s.safetensors").difference == 0.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "s.safetensors"]


def test_a_detector_that_decodes_in_its_own_way_is_refused() -> None:
    x = torch.stack([image for image, _ in (scenes()["val"][i] for i in range(2))])
    from support.detectors import small_retinanet

    class Shifted(nn.Module):
        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            return [{**found, "boxes": found["boxes"] + 5} for found in model(images)]

    torch.manual_seed(0)
    model = small_retinanet(3).eval()
    model.score_thresh = 0.0
    candidates = Candidates(model)
    candidates.check(x)
    boxes, scores = candidates(x)
    candidates.detector = Shifted()
    candidates.forward = lambda _: (boxes, scores)
    with pytest.raises(StillhouseError, match="not among its head's"):
        candidates.check(x)
    with pytest.raises(StillhouseError, match="FasterRCNN"):
        Candidates(small_faster_rcnn(3))
