"""The tables of a recipe that say where a teacher comes from: ``[teacher]`` and ``[teachers.NAME]``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import attrs

from stillhouse.errors import Fault, StillhouseError, raise_faults

__all__ = ["TeacherSpec", "check_teacher_names"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@attrs.frozen(kw_only=True)
class TeacherSpec:
    """``[teacher]``, ``[teachers.NAME]`` or an option of a plugin: the source of a model. Needs one of the first four.

    Attributes:
        recipe: another recipe, by its file (or as a table): trained once, then found again by its content.
        checkpoint: a file of weights for ``model``: a state dict (.pt, .safetensors) or a run's checkpoint. A run's
            folder brings its own model: its student.
        pretrained: the weights that ``model``'s source offers.
        random: ``model`` as it is initialised: a control.
        same_labels: with ``recipe``: the recipe is trained on the samples that the student is trained on, so that it
            knows no more labels: ``per_class``, ``limit`` and their seed are the student's. None: as the recipe says.
        model: what to build, as in ``[student]``; with ``recipe`` or a run's folder their student.
        args: its arguments.
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
    given: bool | None = None

    def __attrs_post_init__(self) -> None:
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
