"""What a classifier says of the validation split at the run's end: mistakes, confusion, and precision by recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from ignite.engine import Events
from torch import Tensor

from stillhouse.contract.batch import DataInfo
from stillhouse.contract.hookspecs import hookimpl
from stillhouse.contract.run import Run
from stillhouse.tasks.maps import get_class_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Answers", "Mistakes", "count_by_threshold"]

MISTAKES = 8
THRESHOLDS = 127
"""As many as TensorBoard's curves can have."""
MOST_CURVES = 10
"""Classes that have a curve of their own."""


@attrs.frozen(eq=False)
class Mistakes:
    """Samples in which the student is wrong, those that it is surest of first; on the run's device.

    Attributes:
        sureness: (K,) the probability of the class that it finds; below 0 where it is right, and there were too few wrong ones.
        images: (K, C, H, W), the inputs.
        found: (K,) the classes that it finds.
        true: (K,) the samples' classes.
    """

    sureness: Tensor
    images: Tensor
    found: Tensor
    true: Tensor

    def join(self, other: Mistakes | None) -> Mistakes:
        """The surest ones of both; nothing is waited for."""
        columns = [list(attrs.astuple(each, recurse=False)) for each in (self, other) if each is not None]
        both = [torch.cat(column) for column in zip(*columns, strict=True)]
        kept = both[0].topk(min(MISTAKES, len(both[0]))).indices
        return Mistakes(*(column[kept] for column in both))

    def draw(self, names: Sequence[str], data: DataInfo) -> Figure:
        """A figure of them, four in a row."""
        from stillhouse.tasks.pictures import Panel, draw, unnormalise

        columns = [column[self.sureness >= 0].cpu() for column in attrs.astuple(self, recurse=False)]
        panels = [
            Panel(f"student: {names[f]} {p:.0%}\ntrue: {names[t]}", unnormalise(image, data))
            for p, image, f, t in zip(*columns, strict=True)
        ]
        return draw([panels[i : i + 4] for i in range(0, len(panels), 4)])


def count_by_threshold(probabilities: Tensor, flags: Tensor) -> Tensor:
    """Count how many probabilities lie in which of ``THRESHOLDS`` intervals.

    Args:
        probabilities: (B, C), 0 to 1.
        flags: (B, C), which of them are of classes that are there.

    Returns:
        (2, C, THRESHOLDS): of classes that are not there, and of those that are. Interval k holds k / (THRESHOLDS - 1) and
        what follows.
    """
    classes = probabilities.shape[1]
    buckets = (probabilities.clamp(0, 1) * (THRESHOLDS - 1)).long()
    places = (flags.long() * classes + torch.arange(classes, device=flags.device)) * THRESHOLDS + buckets
    return torch.bincount(places.flatten(), minlength=2 * classes * THRESHOLDS).reshape(2, classes, THRESHOLDS)


class Answers:
    """Counts and keeps what the last validation says, and shows it; no sample goes through the student for it.

    Of tasks whose outputs are logits (B, classes): with class indices (B,) as targets mistakes, confusion and curves, with
    flags (B, classes) curves alone. Of several processes the first one counts its share.
    """

    name = "answers"

    def __init__(self) -> None:
        self._counts: Tensor | None = None
        self._confusion: Tensor | None = None
        self._mistakes: Mistakes | None = None

    @hookimpl
    def started(self, run: Run) -> None:
        """Listen to the validation after the last epoch, or to all of them where any may turn out to be the last."""
        if run.task.takes_logits:
            run.evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: self._listen(run))

    def _listen(self, run: Run) -> None:
        state: Any = run.evaluator.state
        may_be_last = run.recipe.early_stopping is not None or run.trainer.state.epoch >= run.epochs
        if state.split != "val" or not may_be_last:
            return
        if state.iteration == 1:
            self._counts = self._confusion = self._mistakes = None
        output, target = state.output["output"], state.output["target"]
        if isinstance(output, Tensor) and isinstance(target, Tensor) and output.ndim == 2:
            self.take_in(state.output["input"], output, target)

    @torch.no_grad()
    def take_in(self, inputs: Any, output: Tensor, target: Tensor) -> None:
        """Count one batch: inputs, logits (B, C), and indices (B,) or flags (B, C)."""
        from stillhouse.tasks.pictures import is_picture

        classes = output.shape[1]
        if target.ndim == 1 and not target.is_floating_point():
            known = (target >= 0) & (target < classes)
            probabilities, truth = output[known].float().softmax(1), target[known]
            flags = torch.nn.functional.one_hot(truth, classes)
            sureness, found = probabilities.max(1)
            confusion = torch.bincount(truth * classes + found, minlength=classes * classes)
            self._confusion = confusion if self._confusion is None else self._confusion + confusion
            if is_picture(inputs):
                sureness = torch.where(found == truth, -1.0, sureness)
                self._mistakes = Mistakes(sureness, inputs[known], found, truth).join(self._mistakes)
        elif target.ndim == 2 and target.shape[1] >= classes:
            probabilities, flags = output.float().sigmoid(), (target[:, :classes] > 0.5).long()
        else:
            return
        counts = count_by_threshold(probabilities, flags)
        self._counts = counts if self._counts is None else self._counts + counts

    @hookimpl
    def figures(self, run: Run) -> dict[str, Figure]:
        """The mistakes that the student is surest of, and which class it takes for which; after the last epoch."""
        from stillhouse.tasks.confusion import draw_confusion

        drawn: dict[str, Figure] = {}
        names = [get_class_name(run.data, i) for i in range(run.task.outputs(run.data))]
        if self._confusion is not None:
            drawn["confusion"] = draw_confusion(self._confusion.cpu().reshape(len(names), -1), names)
        if self._mistakes is not None and bool((self._mistakes.sureness >= 0).any()):
            drawn["surest_mistakes"] = self._mistakes.draw(names, run.data)
        return drawn

    def show(self, writer: SummaryWriter, run: Run) -> None:
        """Write the curves: of all classes together, and of those, up to ten, in which it is worst."""
        if self._counts is None:
            return
        counts, step = self._counts.cpu(), run.trainer.state.iteration
        curves = {"all classes": counts.sum(1)}
        curves |= {get_class_name(run.data, i): counts[:, i] for i in _find_worst(counts)}
        for name, own in curves.items():
            false, true = own.double().flip(1).cumsum(1).flip(1)  # at least the threshold
            precision = true / (true + false).clamp(min=1)
            recall = true / true[0].clamp(min=1)
            left, lost = false[0] - false, true[0] - true
            tag = f"precision_by_recall/{name}"
            writer.add_pr_curve_raw(tag, true, false, left, lost, precision, recall, step, THRESHOLDS)


def _find_worst(counts: Tensor) -> list[int]:
    """The classes (up to ten) that occur, by their best F1 over the thresholds, the lowest first."""
    false, true = counts.double().flip(2).cumsum(2).flip(2)
    there = true[:, 0] > 0
    f1 = (2 * true / (true + false + true[:, :1]).clamp(min=1)).amax(1)
    order = torch.where(there, f1, 2.0).argsort(stable=True).tolist()
    return order[: min(MOST_CURVES, int(there.sum()))]
