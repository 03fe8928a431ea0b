"""The tables of a recipe that say where a teacher comes from: ``[teacher]`` and ``[teachers.NAME]``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import attrs

from stillhouse.config.fields import strict_fields
from stillhouse.config.kept import KeptWeights
from stillhouse.errors import Fault, StillhouseError, raise_faults

__all__ = ["Normalization", "TeacherSpec", "check_teacher_names"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class Normalization:
    """``[teacher] normalize`` in numbers, by channel, for images of 0 to 1.

    Attributes:
        mean: what is subtracted.
        std: what is divided by.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __attrs_post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise StillhouseError(
                f"must have one number a channel, as `mean` has, got {len(self.std)} for {len(self.mean)}", where="std"
            )
        if min(self.std) <= 0:
            raise StillhouseError(f"must be > 0, got {min(self.std)}", where="std")


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class TeacherSpec:
    """``[teacher]``, ``[teachers.NAME]`` or an option of a plugin: the source of a model. Needs one of the first four.

    Attributes:
        recipe: another recipe, by its file (or as a table): trained once, then found again by its content.
        checkpoint: a file of weights for ``model``: a state dict (.pt, .safetensors), an export, a run's checkpoint or
            folder. The last two bring their own model, the run's student, where ``model`` is left out.
        pretrained: the weights that ``model``'s source offers.
        random: ``model`` as it is initialised: a control.
        same_labels: with ``recipe``: the recipe is trained on the samples that the student is trained on, so that it
            knows no more labels: ``per_class``, ``limit`` and their seed are the student's. None: as the recipe says.
        model: what to build, as in ``[student]``; with ``recipe`` or a run's folder their student.
        args: its arguments.
        normalize: how its inputs were normalised: ``same`` as the student's, ``none`` (0 to 1), ``imagenet``, or
            ``{ mean = [...], std = [...] }``. None: as its recipe, run, export or published configuration says; of any
            other file, the student's, with a warning.
        size: height and width of its inputs, ``same`` as the student's, or one number for a square; the batch is resized
            on the device. None: likewise.
        classes: the names of its outputs, in order, for what reads its output: its numbers are brought into the student's
            order by name. ``same``: they are the student's, in the student's order. None: likewise.
        averaged: with ``checkpoint``: of a file that has averaged weights beside the plain ones, which are taken. None:
            the averaged ones, and what a run of ours has measured.
        prefix: with ``checkpoint``: what comes before each of the model's keys in the file, such as ``"model."``. None:
            it is found, and an error where two fit.
        weights: with a run as ``checkpoint``, its folder, or with ``recipe``: ``best`` or ``last``. None: the best where the run
            has kept them, else the last.
        given: true in the recipe of a run whose teacher was handed over from Python: `model` is its class, and no recipe
            can build it again.
    """

    recipe: dict[str, Any] | None = None
    checkpoint: str | None = None
    pretrained: bool = False
    random: bool = False
    same_labels: bool | None = None
    model: str | None = None
    args: dict[str, Any] = attrs.field(factory=dict)
    normalize: Literal["same", "none", "imagenet"] | Normalization | None = None
    size: Literal["same"] | int | tuple[int, int] | None = None
    classes: Literal["same"] | tuple[str, ...] | None = None
    averaged: bool | None = None
    prefix: str | None = None
    weights: KeptWeights | None = None
    given: bool | None = None

    def __attrs_post_init__(self) -> None:
        if isinstance(self.classes, tuple) and len(set(self.classes)) < len(self.classes):
            twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
            raise StillhouseError(f"must be distinct, got twice: {', '.join(twice)}", where="classes")
        if self.size is not None and self.size != "same":
            least = min(self.size if isinstance(self.size, tuple) else (self.size,))
            if least < 1:
                raise StillhouseError(f"must be >= 1, got {least}", where="size")
        sources = ("recipe", "checkpoint", "pretrained", "random", "given")
        given = [name for name in sources if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            raise StillhouseError(
                f"needs one of recipe, checkpoint, pretrained, random, got {' and '.join(given) or 'none'}",
                hint='recipe = "teacher.toml", checkpoint = "file.pt", pretrained = true or random = true',
            )
        if self.recipe is None and self.checkpoint is None and self.model is None:
            raise StillhouseError("missing key", where="model", hint='such as "torchvision:resnet34"')
        if self.recipe is not None and (self.model or self.args):
            raise StillhouseError(
                "`model` and `args` cannot be combined with `recipe`", hint="the model is the recipe's student"
            )
        if self.same_labels and self.recipe is None:
            raise StillhouseError("needs `recipe`", where="same_labels")
        for key in ("averaged", "prefix"):
            if getattr(self, key) is not None and self.checkpoint is None:
                raise StillhouseError("needs `checkpoint`", where=key)
        if self.weights is not None and self.recipe is None and self.checkpoint is None:
            raise StillhouseError(
                "needs `checkpoint` or `recipe`", where="weights", hint="it chooses among a run's weights"
            )


def check_teacher_names(names: Iterable[str], *, has_first: bool) -> None:
    """Refuse further teachers whose names cannot be told from other models', or that stand beside none.

    Raises:
        StillhouseError: with every such name.
    """
    faults = []
    for name in names:
        if name in ("student", "teacher"):
            faults.append(Fault(f"teachers.{name}", f"{name!r} is another model's name", "choose another name"))
        elif not _NAME.fullmatch(name):
            hint = "letters, digits, - and _, a letter first"
            faults.append(Fault(f"teachers.{name}", f"{name!r} cannot name a teacher", hint))
        elif not has_first:
            hint = "call the first one [teacher]"
            faults.append(Fault(f"teachers.{name}", "stands beside [teacher], and there is none", hint))
    raise_faults(faults)
