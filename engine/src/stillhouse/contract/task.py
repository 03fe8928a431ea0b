"""Task, the base of all tasks, and how a recipe names one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import attrs
import torch
from ignite.metrics import Metric
from torch import Tensor, nn

from stillhouse.contract.batch import DataInfo

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

__all__ = ["Program", "SampleMaker", "Task"]


class SampleMaker(Protocol):
    """What samples ask of a task: see :class:`stillhouse.tasks.Task`."""

    takes: ClassVar[tuple[str, ...]]

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
        """One sample's input and target."""

    def collate(self, targets: list[Any]) -> Any:
        """A batch's targets."""


@attrs.frozen(eq=False)
class Program:
    """What leaves as a program where a student's output is more than one tensor.

    Attributes:
        module: from inputs (B, ...) to a tuple of tensors.
        outputs: their names.
        about: what a user of the file has to know besides: plain data, into its metadata.
        tolerance: how far each tensor may be from the module's own, as a share of its greatest number.
    """

    module: nn.Module
    outputs: tuple[str, ...]
    about: dict[str, Any]
    tolerance: float = 1e-4


@attrs.frozen(kw_only=True)
class Task:
    """Base of all tasks; a subclass is a frozen attrs class whose fields are its options.

    :meth:`loss` and :meth:`metrics` are what a task must have; everything else has a default.
    """

    score: ClassVar[str]
    """The metric that ``best`` goes by."""
    score_mode: ClassVar[Literal["max", "min"]] = "max"
    one_output: ClassVar[bool] = True
    """A student gives one form of output in train and eval mode; False where what is trained and what is measured differ, as
    a detector's losses and its boxes do."""
    takes: ClassVar[tuple[str, ...]] = ("class",)
    """The kinds of targets that it takes: see :attr:`stillhouse.data.DataInfo.target`."""
    calls_labelled: ClassVar[bool] = False
    """A :meth:`call` of its own knows targets of which not all have a label: :class:`stillhouse.data.PartlyLabelled`."""
    takes_logits: ClassVar[bool] = False
    """Outputs are logits along dimension 1: a run warns of a model whose outputs are probabilities already."""

    def for_data(self, data: DataInfo) -> Self:
        """The task as it is trained on ``data``: one whose loss depends on them, on the classes' weights, returns another."""
        return self

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
        """One sample's input and target, made of what the data gives; called on the CPU, after augmentation.

        Random numbers come from the global generators, which are seeded by (seed, epoch, sample) in training and by
        the sample alone in evaluation.

        Args:
            image: (C, H, W), float32, 0 to 1, not normalised yet.
            target: the data's target, by its kind: an int, a mask (H, W), depths (1, H, W), ...

        Returns:
            The input (C', H', W'), 0 to 1 (it is normalised afterwards), and the target: a tensor, or anything where
            :meth:`collate` knows what to do with it.
        """
        return image, target

    def input_of(self, image: Tensor) -> Tensor:
        """The input that ``stillhouse predict`` makes of an image (C, H, W), 0 to 1, which has no target.

        By default the image itself. A task that makes inputs of photographs says here what is done to an image that is
        such an input already: one to be denoised is left alone, one to be enlarged is brought to its new size.
        """
        return image

    def collate(self, targets: list[Any]) -> Any:
        """The targets of a batch's samples as one: tensors are stacked."""
        return torch.stack([torch.as_tensor(t) for t in targets])

    def outputs(self, data: DataInfo) -> int:
        """How many numbers (vectors) or channels (maps) the model must give: a recipe's models get it as ``num_classes``."""
        return data.classes

    def class_names(self, data: DataInfo) -> tuple[str, ...]:
        """The names of the classes that it tells apart: the data's, unless it has others; () where there are none."""
        return data.class_names

    def call(self, model: nn.Module, inputs: Any, targets: Any) -> Any:
        """Run ``model`` on a batch; ``targets`` is None for the teacher and for predictions."""
        return model(inputs)

    def check(self, output: Any, targets: Any, data: DataInfo) -> None:
        """Look at one small batch's output before training; raise StillhouseError when it cannot serve."""

    def loss(self, output: Any, targets: Any) -> Tensor:
        """The task's loss, a scalar on the device, the mean over what :meth:`count` counts; no host synchronisation."""
        raise NotImplementedError  # a task without a loss is none

    def loss_by_sample(self, output: Any, targets: Any) -> tuple[Tensor, Tensor | None] | None:
        """The parts that the batch's samples have in :meth:`loss`, for ``sample_weights`` and ``step.sample_losses``.

        Returns:
            Sums (B,) over each sample, and what their sum is divided by to be :meth:`loss`, a scalar on the device, or
            None for the number of samples. None where the loss is not a sum over samples; it is refused then that a
            plugin weighs them.
        """
        return None

    def count(self, targets: Any) -> Tensor | None:
        """How much the loss is the mean over: a scalar on the device, such as the pixels that are not ignored.

        Losses of several processes, and of the parts of an accumulated batch, are averaged by it. None means the
        number of samples.
        """
        return None

    def metrics(self, data: DataInfo) -> dict[str, Metric]:
        """ignite metrics by name, fed with ``{"output": ..., "target": ..., "input": ..., "features": ...}``.

        A metric whose value is a vector, a number for each of :meth:`class_names`, is shown by class.
        """
        raise NotImplementedError  # nor is one that measures nothing

    def figures(self, data: DataInfo, inputs: Any, output: Any, targets: Any, teacher: Any = None) -> dict[str, Figure]:
        """Pictures of a few validation samples, for TensorBoard; on the CPU. ``teacher``: its output, None without one; may be left out."""
        return {}

    def program(self, student: nn.Module, inputs: Tensor) -> Program | None:
        """What leaves as .pt2 or .onnx of a student that gives more than one tensor; None: the student itself.

        Args:
            student: in eval mode, on the CPU.
            inputs: real ones (B, ...), on which the program must tell what the student tells.

        Raises:
            StillhouseError: this student cannot leave as a program, and why.
        """
        return None

    def output_text(self) -> str:
        """What a model's output is, in a few words: an exported program's metadata has them."""
        return "what the task's loss takes"

    def prediction(self, data: DataInfo, output: Any) -> dict[str, Any]:
        """What ``stillhouse predict`` says of one sample, as plain data; ``output`` is one sample's, on the CPU."""
        raise NotImplementedError  # `stillhouse predict` refuses such a task

    def picture(self, data: DataInfo, image: Tensor, output: Any) -> Image | None:
        """A picture of one prediction beside its input (C, H, W), 0 to 1; None for a task that shows none."""
        return None
