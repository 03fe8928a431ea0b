"""A one-stage detector as a program: every box it considers, with its scores, before the choice among them.

The choice gives each image another number of boxes, which tracers cannot follow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import clip_boxes_to_image

from stillhouse.errors import StillhouseError

__all__ = ["Candidates"]


class Candidates(nn.Module):
    """A detector from images of one size (B, C, H, W) to boxes (B, N, 4), x1, y1, x2, y2 in pixels, and scores (B, N, K).

    ``scores[b, n, k]`` is that of label k for the box n; label 0 is the background, which SSD never finds.

    Args:
        detector: torchvision's FCOS, RetinaNet or SSD; :func:`stillhouse.models.nets.detector` is an FCOS.

    Attributes:
        choice: how the detector chooses boxes, as plain data: of the scores above ``score_thresh`` the best
            ``topk_candidates`` of each level (SSD: of each label), of overlapping boxes (by more than ``nms_thresh``) of
            one label the best, of these the best ``detections_per_img``.

    Raises:
        StillhouseError: another model.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        if not isinstance(detector, FCOS | RetinaNet | SSD):
            raise StillhouseError(
                f"a program needs outputs of fixed shape, and {type(detector).__name__} gives lists of boxes whose "
                "number depends on the image",
                where="student",
                hint="FCOS, RetinaNet, SSD and our own detector leave as programs, with all boxes that they consider; "
                "for others take .safetensors, which holds the weights of any model",
            )
        self.detector: Any = detector
        names = ("score_thresh", "topk_candidates", "nms_thresh", "detections_per_img")
        self.choice: dict[str, Any] = {name: getattr(detector, name) for name in names}
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W), 0 to 1 -> boxes (B, N, 4) and scores (B, N, K)."""
        model = self.detector
        images, size = self._transform(x)
        found = model.backbone(images)
        maps = [found] if isinstance(found, Tensor) else list(found.values())
        out = model.head(maps)
        # One image's anchors are every image's.
        (anchors,) = model.anchor_generator(ImageList(images[:1], [size]), [m[:1] for m in maps])
        boxes = clip_boxes_to_image(self._decode(out["bbox_regression"], anchors), size)
        height, width = x.shape[-2:]
        scale = boxes.new_tensor([width / size[1], height / size[0]] * 2)
        return boxes * scale, self._score(out)

    def check(self, x: Tensor) -> None:
        """Refuse a detector that finds a box in ``x`` (B, C, H, W) which is none of these candidates.

        Raises:
            StillhouseError: it decodes its boxes or scores in a way of its own.
        """
        with torch.no_grad():
            for found, boxes, scores in zip(self.detector(list(x)), *self(x), strict=True):
                near = torch.isclose(scores[:, found["labels"]].T, found["scores"][:, None], rtol=1e-4, atol=1e-6)
                near &= torch.cdist(found["boxes"], boxes, p=torch.inf) < 1e-3 * max(x.shape)
                if not bool(near.any(1).all()):
                    raise StillhouseError(
                        f"{type(self.detector).__name__} finds boxes that are not among its head's",
                        where="student",
                        hint="take .safetensors, which holds the weights of any model",
                    )

    def _transform(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The batch normalised, resized and padded, and height and width before padding.

        torchvision's transform takes a list, whose length a program would keep to. Images of one size are one image of
        many channels to everything but the normalisation.
        """
        transform = self.detector.transform
        channels = x.shape[1]
        flat = transform.normalize(x).flatten(0, 1)
        flat, _ = transform.resize(flat, None)
        size = (int(flat.shape[-2]), int(flat.shape[-1]))
        padded = transform.batch_images([flat], size_divisible=transform.size_divisible)[0]
        return padded.reshape(-1, channels, *padded.shape[-2:]), size

    def _decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (B, N, 4) in pixels of the resized image."""
        coder = self.detector.box_coder
        if isinstance(self.detector, FCOS):
            every: Tensor = coder.decode(regression, anchors.expand_as(regression))
            return every
        flat: Tensor = coder.decode_single(regression.flatten(0, 1), anchors.expand_as(regression).flatten(0, 1))
        return flat.reshape(regression.shape)

    def _score(self, out: dict[str, Tensor]) -> Tensor:
        logits = out["cls_logits"]
        if isinstance(self.detector, FCOS):
            return torch.sqrt(torch.sigmoid(logits) * torch.sigmoid(out["bbox_ctrness"]))
        if isinstance(self.detector, RetinaNet):
            return torch.sigmoid(logits)
        objects = logits.softmax(-1)[..., 1:]
        return torch.cat([torch.zeros_like(objects[..., :1]), objects], -1)
