"""The recipe's ``[task]``."""

from __future__ import annotations

from typing import Any

import attrs

from stillhouse.config.fields import strict_fields

__all__ = ["TaskSpec"]


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class TaskSpec:
    """The recipe's ``[task]``.

    Attributes:
        name: ``classification``, ``segmentation``, ``depth``, ``image-to-image``, ``colourisation``, ``denoising``,
            ``super-resolution``, ``multi-label``, ``regression``, ``detection``, ``distillation``, ``self-supervised``, or
            ``package.module:Class`` of a :class:`Task` of your own.
        args: the task's options.
        loss: another loss in place of the task's, ``package.module:function``: called with the model's output and the targets,
            it returns a scalar, the mean over the samples. A name without a colon, in the recipe of a run, was handed over
            from Python. None: the task's own.
    """

    name: str = "classification"
    args: dict[str, Any] = attrs.field(factory=dict)
    loss: str | None = None
