"""ModelFamily: models that a recipe names by a family and a name in it, such as ``timm:vit_tiny_patch16_224``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
from torch import nn

from stillhouse.config.model import ModelSpec
from stillhouse.contract.batch import DataInfo

__all__ = ["ModelFamily", "ModelRequest"]


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


@attrs.frozen(eq=False)
class ModelFamily:
    """A family of models, to which an entry point of the group ``stillhouse.models`` leads.

    An entry point that leads to any other callable names one model: it is called with the recipe's arguments.

    Attributes:
        build: called with the name in the family and what the model is for; returns the module, on the CPU. The global
            random generators are seeded by then. It raises StillhouseError where there is no such model.
    """

    build: Callable[[str, ModelRequest], nn.Module]
