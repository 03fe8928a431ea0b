"""The recipe's ``[teacher]``: TeacherSpec."""

from __future__ import annotations

from typing import Any

import attrs

from stillhouse.errors import StillhouseError

__all__ = ["TeacherSpec"]


@attrs.frozen(kw_only=True)
class TeacherSpec:
    """The recipe's ``[teacher]``: the source of the frozen model. Needs one of the first four.

    Attributes:
        recipe: another recipe, by its file (or as a table): trained once, then found again by its content.
        checkpoint: a file of weights for ``model``: a state dict (.pt, .safetensors) or a run's checkpoint.
        pretrained: the weights that ``model``'s source offers.
        random: ``model`` as it is initialised: a control.
        same_labels: with ``recipe``: the recipe is trained on the samples that the student is trained on, so that it
            knows no more labels: ``per_class``, ``limit`` and their seed are the student's. None: as the recipe says.
        model: what to build, as in ``[student]``; with ``recipe`` the recipe's student.
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
        if self.recipe is None and self.model is None:
            raise StillhouseError("missing key", where="model", hint='such as "torchvision:resnet34"')
        if self.recipe is not None and (self.model or self.args):
            raise StillhouseError(
                "`model` and `args` cannot be combined with `recipe`", hint="the model is the recipe's student"
            )
        if self.same_labels and self.recipe is None:
            raise StillhouseError("needs `recipe`", where="same_labels")
