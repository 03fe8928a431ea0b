"""ModelFamily: models that a recipe names by a family and a name in it, such as ``timm:vit_tiny_patch16_224``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
from torch import nn

from stillhouse.config.model import ModelSpec
from stillhouse.contract.batch import DataInfo

__all__ = ["ModelFamily", "ModelRequest", "Published"]


@attrs.frozen(eq=False)
class ModelRequest:
    """What a model is built for.

    Attributes:
        spec: the recipe's table: arguments, and whether published weights are wanted. ``checkpoint`` and ``recipe`` are
            none of the family's business.
        info: the data's classes (the outputs that the task wants) and the shape of one input.
        where: the recipe's table, ``student`` or ``teacher``, for faults.
        base: the recipe's folder, which relative paths start from.
    """

    spec: ModelSpec
    info: DataInfo
    where: str
    base: Path | None = None


@attrs.frozen
class Published:
    """What a model's source says of the data that its published weights were trained on.

    Attributes:
        source: who says so, for messages: ``timm's configuration``.
        mean: what was subtracted, by channel, of images of 0 to 1; empty: nothing; None: it does not say.
        std: what was divided by.
        channels: of an image; None: any, or it does not say.
        size: height and width of an image; None: any, or it does not say.
        outputs: how many outputs the published last layers have; None: it does not say.
        class_names: of the outputs, in order; empty: it does not say.
    """

    source: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] = ()
    channels: int | None = None
    size: tuple[int, int] | None = None
    outputs: int | None = None
    class_names: tuple[str, ...] = ()


@attrs.frozen(eq=False)
class ModelFamily:
    """A family of models, to which an entry point of the group ``stillhouse.models`` leads.

    An entry point that leads to any other callable names one model: it is called with the recipe's arguments.

    Attributes:
        build: called with the name in the family and what the model is for; returns the module, on the CPU. The global
            random generators are seeded by then. It raises StillhouseError where there is no such model.
        describe: called likewise, before ``build``: what the source says of the published weights, without fetching
            them; None where it says nothing. A family without it says nothing.
        is_one_model: the family's name is a model's already, and the name in the family is empty.
    """

    build: Callable[[str, ModelRequest], nn.Module]
    describe: Callable[[str, ModelRequest], Published | None] | None = None
    is_one_model: bool = False
