"""Images from images: pairs of pictures, and pairs made of plain photographs by taking something away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import torch
import torch.nn.functional as F
from ignite.metrics import PSNR, SSIM, Metric
from torch import Tensor

from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.layout import format_shape
from stillhouse.tasks.maps import is_map_of, require_map
from stillhouse.tasks.measures import measure_loss
from stillhouse.tasks.own_pixels import Map

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["Colourisation", "Denoising", "ImageTask", "ImageToImage", "SuperResolution"]

PHOTOGRAPHS = ("none", "class", "mask", "depth", "image", "vector", "boxes")
"""Whatever target data has, its pictures serve as photographs."""
_SSIM_SIDE = 6
"""The shortest side that SSIM's window of 11 pixels, reflected at the border, can be laid over."""


@attrs.frozen(kw_only=True)
class ImageTask(Task):
    """Base of the tasks that make a picture: a map (B, C, H, W) against an image (B, C, H, W), 0 to 1.

    The output is the image itself, 0 to 1 and not normalised, of the target's size. It is limited to that range when it
    is measured and shown, and not in the loss.

    Attributes:
        kind: the loss, a mean over all channels and pixels: ``l1``, the absolute difference, or ``l2``, its square.
    """

    score: ClassVar[str] = "psnr"
    takes: ClassVar[tuple[str, ...]] = PHOTOGRAPHS

    kind: Literal["l1", "l2"] = "l1"

    def outputs(self, data: DataInfo) -> int:
        """The target's channels: those of the input."""
        return data.input_shape[0]

    def check(self, output: Any, targets: Tensor, data: DataInfo) -> None:
        """Refuse a model whose output is not of the target's shape, and images too small to be measured."""
        require_map(output, targets.shape[1], "an image task")
        if output.shape[-2:] != targets.shape[-2:]:
            raise StillhouseError(
                f"needs an output of the targets' shape {format_shape(targets)}, got {format_shape(output)}",
                where="student",
                hint="a model whose output has the target's size, by upsampling where it reduces",
            )
        if min(targets.shape[-2:]) < _SSIM_SIDE:
            raise StillhouseError(
                f"SSIM needs images of at least {_SSIM_SIDE} pixels on each side, got {format_shape(targets)}",
                where="data.size",
            )

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Mean absolute or squared difference of two images (B, C, H, W)."""
        return (F.l1_loss if self.kind == "l1" else F.mse_loss)(output.float(), targets.float())

    def loss_by_sample(self, output: Tensor, targets: Tensor) -> tuple[Tensor, None]:
        """The mean over each image's channels and pixels (B,)."""
        error = output.float() - targets.float()
        return (error.abs() if self.kind == "l1" else error.square()).mean((1, 2, 3)), None

    def metrics(self, data: DataInfo) -> dict[str, Metric]:
        """PSNR in decibels and SSIM (Wang et al. 2004, Gaussian window of 11, sigma 1.5), each the mean over the images."""

        def shown(state: dict[str, Any]) -> tuple[Tensor, Tensor]:
            return state["output"].float().clamp(0, 1), state["target"].float()

        return {"psnr": PSNR(1.0, shown), "ssim": SSIM(1.0, output_transform=shown), "loss": measure_loss(self)}

    def figures(
        self, data: DataInfo, inputs: Tensor, output: Tensor, targets: Tensor, teacher: Any = None
    ) -> dict[str, Figure]:
        """Input, target, the student's and the teacher's picture, and the student's error, a mean over the channels."""
        from stillhouse.tasks.pictures import Panel, draw, make_error, unnormalise

        made = {"target": targets, "student": output}
        if is_map_of(teacher, output):
            made["teacher"] = teacher
        error = (output.float().clamp(0, 1) - targets).abs().mean(1)
        rows = [
            [
                Panel("input", unnormalise(x, data)),
                *(Panel(name, pictures[i].float()) for name, pictures in made.items()),
                make_error(error[i]),
            ]
            for i, x in enumerate(inputs)
        ]
        return {"samples": draw(rows)}

    def output_text(self) -> str:
        """See :meth:`stillhouse.tasks.Task.output_text`."""
        return "images (B, C, H, W), 0 to 1"

    def prediction(self, data: DataInfo, output: Tensor) -> dict[str, Any]:
        """Height and width of the picture that was made, and the mean of each channel; ``output`` is (C, H, W)."""
        means = output.float().clamp(0, 1).mean((1, 2)).tolist()
        return {"output_size": list(output.shape[-2:]), "mean": [round(m, 4) for m in means]}

    def map_of(self, data: DataInfo, output: Tensor, size: tuple[int, int]) -> Map:
        """The picture that was made, in its own size and 256 levels; ``output`` is (C, H, W) of one or three channels."""
        levels = (output.float().clamp(0, 1) * 255).round().to(torch.uint8)
        pixels = levels[0] if len(levels) == 1 else levels.permute(1, 2, 0).contiguous()
        return Map(pixels.numpy(), "the picture that was made")

    def picture(self, data: DataInfo, image: Tensor, output: Tensor) -> Image:
        """The input beside the image made of it."""
        from stillhouse.tasks.pictures import Panel, draw, to_picture

        return to_picture(draw([[Panel("input", image), Panel("prediction", output.float())]]))


@attrs.frozen(kw_only=True)
class ImageToImage(ImageTask):
    """One picture from another, of pairs that the data has.

    Attributes:
        kind: the loss, a mean over all channels and pixels: ``l1``, the absolute difference, or ``l2``, its square.
    """

    takes: ClassVar[tuple[str, ...]] = ("image",)

    def outputs(self, data: DataInfo) -> int:
        """The target's channels."""
        return data.target_shape[0]

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """The pair as it is."""
        return image, torch.as_tensor(target).float()


@attrs.frozen(kw_only=True)
class Colourisation(ImageTask):
    """Colour from grey: the input is a photograph's luminance, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).

    Attributes:
        kind: the loss, a mean over all channels and pixels: ``l1``, the absolute difference, or ``l2``, its square.
        input_channels: 1, or 3: the same luminance three times, for an encoder that takes colour.
    """

    input_channels: Literal[1, 3] = 1

    def outputs(self, data: DataInfo) -> int:
        """Red, green and blue."""
        return 3

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """Luminance (1 or 3, H, W) and the colour image (3, H, W).

        Raises:
            StillhouseError: the image is grey.
        """
        if image.shape[0] != 3:
            raise StillhouseError(
                f"colourisation needs images of 3 channels, got {image.shape[0]}",
                where="data.channels",
                hint="photographs in colour, and channels = 3",
            )
        return self.input_of(image), image

    def input_of(self, image: Tensor) -> Tensor:
        """The luminance (1 or 3, H, W) of an image, which may be grey itself."""
        if image.shape[0] == self.input_channels == 1:
            return image
        from torchvision.transforms.v2 import functional as transforms

        grey: Tensor = transforms.rgb_to_grayscale(image, self.input_channels)
        return grey


@attrs.frozen(kw_only=True)
class Denoising(ImageTask):
    """A photograph from one with white Gaussian noise, drawn anew each time in training and always alike in evaluation.

    The noisy image is not limited to 0 to 1, as that would change the noise.

    Attributes:
        kind: the loss, a mean over all channels and pixels: ``l1``, the absolute difference, or ``l2``, its square.
        sigma: the noise's standard deviation in levels of 8 bits, 0 to 255; of a pair, each sample's is drawn evenly
            from between the two.
    """

    sigma: float | tuple[float, float] = 25.0

    def __attrs_post_init__(self) -> None:
        low, high = self._range
        if not 0 <= low <= high or high == 0:
            raise StillhouseError(
                f"must be > 0, or a range [low, high] with 0 <= low <= high, got {self.sigma}",
                where="sigma",
                hint="such as 25 or [0, 50]",
            )

    @property
    def _range(self) -> tuple[float, float]:
        return self.sigma if isinstance(self.sigma, tuple) else (self.sigma, self.sigma)

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """The image with noise, and without."""
        low, high = self._range
        sigma = low + (high - low) * torch.rand(()) if high > low else torch.tensor(low)
        return image + torch.randn(image.shape) * (sigma / 255), image


@attrs.frozen(kw_only=True)
class SuperResolution(ImageTask):
    """A photograph from one reduced to a ``factor``-th in height and width, bicubically and antialiased.

    Attributes:
        kind: the loss, a mean over all channels and pixels: ``l1``, the absolute difference, or ``l2``, its square.
        factor: how many times smaller; 2 or more. What is left over of height or width is cut off at the right and
            below.
        upscale: bring the reduced image back to the target's size bicubically, so that any model from image to image
            serves; false: the model gets the reduced image and gives one ``factor`` times as large.
    """

    factor: int = 2
    upscale: bool = True

    def __attrs_post_init__(self) -> None:
        raise_faults([Fault("factor", f"must be >= 2, got {self.factor}")] if self.factor < 2 else [])

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """The reduced image, brought back to its size or not, and the image.

        Raises:
            StillhouseError: the image is smaller than ``factor``.
        """
        height, width = (side // self.factor for side in image.shape[-2:])
        if min(height, width) < 1:
            raise StillhouseError(
                f"needs images of at least factor = {self.factor} pixels on each side, got {format_shape(image)}"
            )
        image = image[:, : height * self.factor, : width * self.factor]
        small = _resize(image, height, width)
        return _resize(small, *image.shape[-2:]) if self.upscale else small, image.contiguous()

    def input_of(self, image: Tensor) -> Tensor:
        """The image enlarged ``factor`` times bicubically, or as it is where the model enlarges."""
        height, width = image.shape[-2:]
        return _resize(image, height * self.factor, width * self.factor) if self.upscale else image

    def check(self, output: Any, targets: Tensor, data: DataInfo) -> None:
        """Refuse a model whose output is not of the target's shape; a small one is told of ``upscale``."""
        too_small = (
            isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] * self.factor == targets.shape[-1]
        )
        if too_small and not self.upscale:
            raise StillhouseError(
                f"needs an output of the targets' shape {format_shape(targets)}, got {format_shape(output)}",
                where="student",
                hint=f"a model that enlarges {self.factor} times, or [task] args = {{ upscale = true }}",
            )
        super().check(output, targets, data)


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    """An image (C, H, W) in another size, limited to 0 to 1, which bicubic kernels overshoot."""
    return F.interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0].clamp(0, 1)
