"""SimKD: knowledge distillation with the reused teacher classifier (Chen et al. 2022, 2203.14001)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse import Assembly, Plugin, Step, StillhouseError, Tap, Weight, hookimpl, plugin
from stillhouse.contract.modes import keep_modes
from stillhouse.layout import format_shape
from stillhouse.outputs import find_class_order
from stillhouse.outputs import read_output as pick_output
from stillhouse_classics.checks import check_counts
from stillhouse_classics.links import widen

__all__ = ["ReusedClassifier", "ReusedHead", "feature_loss"]


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean square of the difference between projected features (B, D) and the teacher's: equation 3 as a mean [choice].

    Raises:
        StillhouseError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise StillhouseError(
            f"the teacher's classifier takes {format_shape(student)}, and the layer gives {format_shape(teacher)}",
            where="features",
            hint="name the teacher's layer whose output goes into its last linear layer",
        )
    return F.mse_loss(student, teacher)


class ReusedHead(nn.Module):
    """In the place of the student's last layer: a projector, and the teacher's last layer, frozen.

    Attributes:
        projector: (B, inputs) -> (B, D), the teacher's width.
        classifier: (B, D) -> (B, classes).
    """

    def __init__(self, inputs: int, reduction: int, classifier: nn.Linear, order: Sequence[int] | None = None) -> None:
        super().__init__()
        rows = list(range(classifier.out_features)) if order is None else list(order)
        width, classes = classifier.in_features, len(rows)
        hidden = max(1, width // reduction)
        self.projector = nn.Sequential(
            nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
        )
        self.classifier = nn.Linear(width, classes)
        with torch.no_grad():
            self.classifier.weight.copy_(classifier.weight[rows])
            self.classifier.bias.copy_(torch.zeros(classes) if classifier.bias is None else classifier.bias[rows])
        self.classifier.requires_grad_(False)

    def fit_to(self, state: Mapping[str, Tensor]) -> None:
        """Take the shapes of a state dict of this module's own; the layers stay, as somebody may read them."""
        for name, own in (*self.named_parameters(), *self.named_buffers()):
            if own.shape != state[name].shape:
                own.data = own.new_zeros(state[name].shape)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) -> logits (B, classes)."""
        logits: Tensor = self.classifier(self.projector(x))
        return logits


class Place(nn.Module):
    """Where in a student the projector is: it trains nothing, and remembers the path.

    Attributes:
        projector: its dotted path.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        path, *others = (name for name, part in student.named_modules() if isinstance(part, ReusedHead))
        if others:
            raise StillhouseError("two plugins give the student a teacher's classifier", hint="list simkd once")
        self.projector = f"{path}.projector"


@plugin
class ReusedClassifier(Plugin):
    """Give the student the teacher's classifier, and train what comes before it by the teacher's features alone.

    Source: 2203.14001, equation 3. The student's last linear layer becomes a projector and the teacher's last layer,
    which stays as it is. The projector works on vectors: linear, BatchNorm, ReLU, linear, with ``width / reduction``
    in the middle; the authors' has three convolutions before the pooling [choice]. There is no loss by labels, as in
    the paper: the task's is counted with the factor 0 for each sample (``labels = true`` leaves it on). The student keeps
    the projector and the teacher's layer for good, so that it is a little larger.

    Attributes:
        features: the teacher's layer whose output (B, D) goes into its last linear layer.
        head: the student's last linear layer; the last one with the task's classes when left empty.
        teacher_head: the teacher's, likewise.
        reduction: the projector's middle is the teacher's width over this.
        labels: whether the task's loss counts.
        weight: the term's factor.
    """

    requires = ("teacher",)
    conflicts = ("tcs",)  # which replaces the student's last layer as well
    example: ClassVar[dict[str, Any]] = {"features": "pool"}

    features: str
    head: str = ""
    teacher_head: str = ""
    reduction: int = 2
    labels: bool = False
    weight: Weight = 1.0

    def __attrs_post_init__(self) -> None:
        check_counts(reduction=self.reduction)

    @hookimpl
    def adapt(self, assembly: Assembly, student: nn.Module) -> nn.Module:
        """Put projector and classifier in the place of the student's last layer.

        Raises:
            StillhouseError: no such layer in either model, one that is not all of the model's output, a teacher of other
                classes, or the student is nothing but one layer.
        """
        classes = assembly.data.classes
        path, own = _find_head(student, self.head, lambda count: count == classes, "head")
        _check_last(assembly, student, path, "student", "head")
        # A run that is loaded may have no teacher: the checkpoint brings the shapes then.
        reused, order, teacher = own, None, assembly.teacher
        if teacher is not None:
            order = find_class_order(teacher)
            fits = (lambda count: count == classes) if order is None else (lambda count: count > max(order))
            its, reused = _find_head(teacher, self.teacher_head, fits, "teacher_head")
            _check_last(assembly, teacher, its, "teacher", "teacher_head")
        given = reused.out_features if order is None else len(order)
        if given != own.out_features:
            raise StillhouseError(
                f"the teacher's classifier gives {given} classes, the student's {own.out_features}",
                where="teacher_head",
                hint="take a teacher of the same classes",
            )
        head = ReusedHead(own.in_features, self.reduction, reused, order).to(own.weight.device)
        student.set_submodule(path, head)
        return student

    @hookimpl
    def add_taps(self, assembly: Assembly) -> Iterable[Tap]:
        """The projector's output and the teacher's features.

        Raises:
            StillhouseError: ``features`` is not one layer of the teacher whose classifier the student gets.
        """
        layers = assembly.layers("teacher", self.features)
        if len(layers) > 1 or ":" in layers[0]:
            raise StillhouseError(
                f"must be one layer of [teacher], whose classifier is reused, got {', '.join(layers[:3])}",
                where="features",
            )
        return [Tap("student", Place(assembly.student).projector), Tap("teacher", self.features)]

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """Where the projector is."""
        return Place(assembly.student)

    @hookimpl
    def sample_weights(self, step: Step) -> Tensor:
        """0 for each sample, or 1 with ``labels``."""
        return torch.full_like(step.sample_losses, float(self.labels))

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The distance of the projected features from the teacher's.

        Raises:
            StillhouseError: the teacher's layer gives other than vectors of its classifier's width.
        """
        ((_, student),) = step.tapped("student", step.module(self).projector)
        ((_, teacher),) = step.tapped("teacher", self.features)
        return {"": feature_loss(widen(student), widen(teacher))}


def _check_last(assembly: Assembly, model: nn.Module, path: str, which: str, where: str) -> None:
    """Check on an example that what a layer gives is the model's output: one head of two would leave the other as it is."""
    if assembly.batches is None:  # a run that is loaded
        return
    seen: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(lambda _layer, _given, gave: seen.append(gave))
    try:
        with keep_modes(model, training=False), torch.no_grad():
            example = assembly.batches.example().input.to(assembly.device)
            output = pick_output(assembly.task.call(model, example, None), which)
    finally:
        handle.remove()
    if len(seen) != 1 or not isinstance(output, Tensor) or not torch.equal(output, seen[0]):
        what = f"what the layer {path!r} gives must be the {which}'s output, and it is not all of it"
        raise StillhouseError(
            what, where=where, hint="a model with one last linear layer; name it where there are others"
        )


def _find_head(model: nn.Module, name: str, fits: Callable[[int], bool], where: str) -> tuple[str, nn.Linear]:
    """The path and the layer: ``name``, or the last linear layer with a number of outputs that ``fits``."""
    layers = {path: part for path, part in model.named_modules() if isinstance(part, nn.Linear) and path}
    found = [path for path, part in layers.items() if (path == name if name else fits(part.out_features))]
    if not found:
        raise StillhouseError(
            f"{name!r} is no linear layer" if name else "no linear layer gives as many outputs as there are classes",
            where=where,
            hint=f"linear layers: {', '.join(layers) or 'none'}",
        )
    return found[-1], layers[found[-1]]
