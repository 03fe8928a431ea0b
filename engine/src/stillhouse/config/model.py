"""The recipe's ``[student]``: ModelSpec."""

from __future__ import annotations

from typing import Any

import attrs

from stillhouse.config.fields import strict_fields
from stillhouse.config.kept import KeptWeights
from stillhouse.errors import Fault, raise_faults

__all__ = ["ModelSpec"]


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class ModelSpec:
    """A model: its name, arguments and starting weights.

    Attributes:
        model: ``torchvision:resnet18``, ``timm:vit_tiny_patch16_224``, ``transformers:ViTForImageClassification`` or
            ``package.module:callable``, whose call returns an nn.Module (``stillhouse.models:convnet``, ``:vit``,
            ``:mlp``, for maps ``:unet``, ``:dense_vit``, for boxes ``:detector`` are ours).
        args: its arguments. ``num_classes``, ``in_channels`` (``in_chans``), ``in_features``, ``image_size``
            (``img_size``, ``input_size``) and ``input_shape`` come from data and task when the callable takes them and
            they are not given here; for ``timm``, ``img_size`` where the model takes images of one size. For
            ``transformers``: the keys of the model's config, and ``source``, a folder or a name on the hub to take them
            from.
        pretrained: with the published weights, and new last layers where the number of classes differs. A callable
            of your own gets ``pretrained=True``.
        checkpoint: a file of weights to start from: a state dict (.pt, .safetensors), a run's folder or checkpoint.
        recipe: another recipe to start from, by its file (or as a table): it is trained once, then found again by its
            content, and the student starts with its student's weights. Fine-tuning, in other words.
        replace_head: a ``checkpoint`` or ``recipe`` of another number of classes: the layers that differ in it start
            anew.
        averaged: with ``checkpoint``: of a file that has averaged weights beside the plain ones, which are taken. None:
            the averaged ones, and what a run of ours has measured.
        prefix: with ``checkpoint``: what comes before each of the model's keys in the file, such as ``"model."``. None:
            it is found, and an error where two fit.
        weights: with a run as ``checkpoint``, its folder, or with ``recipe``: ``best`` or ``last``. None: the best where the run
            has kept them, else the last; with `optimizer_state` the last, which alone have it.
        optimizer_state: with a run as ``checkpoint``: its optimizer's moments too; the rate and its schedule begin anew.
            `[run] parent` goes on with the whole run instead.
        given: true in the recipe of a run whose student was handed over from Python: `model` is its class, and no recipe
            can build it again.
    """

    model: str
    args: dict[str, Any] = attrs.field(factory=dict)
    pretrained: bool = False
    checkpoint: str | None = None
    recipe: dict[str, Any] | None = None
    replace_head: bool = False
    averaged: bool | None = None
    prefix: str | None = None
    weights: KeptWeights | None = None
    optimizer_state: bool | None = None
    given: bool | None = None

    def __attrs_post_init__(self) -> None:
        faults = []
        given = [n for n in ("pretrained", "checkpoint", "recipe") if getattr(self, n) not in (None, False)]
        if len(given) > 1:
            faults.append(Fault(given[1], f"cannot be combined with `{given[0]}`", "a model starts from one of them"))
        if self.replace_head and self.checkpoint is None and self.recipe is None:
            faults.append(
                Fault(
                    "replace_head",
                    "needs `checkpoint` or `recipe`",
                    "pretrained = true does so itself",
                )
            )
        faults += [
            Fault(key, "needs `checkpoint`")
            for key in ("averaged", "prefix", "optimizer_state")
            if getattr(self, key) is not None and self.checkpoint is None
        ]
        if self.weights is not None and self.checkpoint is None and self.recipe is None:
            faults.append(Fault("weights", "needs `checkpoint` or `recipe`", "it chooses among a run's weights"))
        if self.optimizer_state and self.weights == "best":
            faults.append(
                Fault("weights", "must be 'last' with `optimizer_state`", "no other have a state of the optimizer")
            )
        raise_faults(faults)

    def without_start(self) -> ModelSpec:
        """The model without the file or recipe that it starts from, and without the keys that say how that is read."""
        nothing: dict[str, Any] = dict.fromkeys(
            ("checkpoint", "recipe", "averaged", "prefix", "weights", "optimizer_state")
        )
        return attrs.evolve(self, replace_head=False, **nothing)

    @property
    def asked_weights(self) -> KeptWeights | None:
        """Which of a run's weights are meant; None: nothing is said."""
        return "last" if self.optimizer_state else self.weights
