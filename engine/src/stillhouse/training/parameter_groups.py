"""The student's parameter groups: without weight decay for norms and biases, with lower rates for earlier layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from stillhouse.config.run import OptimizerSpec
from stillhouse.errors import StillhouseError

__all__ = ["group_student", "number_layers"]


def group_student(student: nn.Module, parameters: Mapping[str, Tensor], spec: OptimizerSpec) -> list[dict[str, Any]]:
    """torch's parameter groups of the student; one, named ``student``, unless ``spec`` asks for more.

    A layer's group is called ``student/layer3``, what is spared of decay ``student/spared`` or ``student/layer3/spared``.

    Args:
        student: whose ``no_weight_decay()``, where it has one as timm's models do, names further parameters to be spared.
        parameters: those to be trained, by name, in the model's order.
        spec: the recipe's.

    Raises:
        StillhouseError: weight decay is to spare some, and there is none.
    """
    if spec.spare_norms_and_biases and not spec.weight_decay:
        raise StillhouseError(
            "spares parameters of weight decay, and there is none",
            where="optimizer.spare_norms_and_biases",
            hint="[optimizer] weight_decay = 0.05",
        )
    layers = number_layers(parameters) if spec.layer_decay is not None else dict.fromkeys(parameters, 0)
    last = max(layers.values(), default=0)
    spared = _find_spared(student, parameters) if spec.spare_norms_and_biases else frozenset()
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        key = (layers[name], name in spared)
        if key not in groups:
            parts = ["student", *([f"layer{key[0]}"] if spec.layer_decay is not None else []), *(["spared"] * key[1])]
            groups[key] = {"params": [], "name": "/".join(parts)}
            if spec.layer_decay is not None:
                groups[key]["lr"] = spec.lr * spec.layer_decay ** (last - key[0])
            if key[1]:
                groups[key]["weight_decay"] = 0.0
        groups[key]["params"].append(parameter)
    return [groups[key] for key in sorted(groups)] or [{"params": [], "name": "student"}]


def number_layers(names: Iterable[str]) -> dict[str, int]:
    """Number the layers of a model from its inputs, 0, to its outputs, by its parameters' names.

    A layer is what a number in a name counts: ``blocks.3``, ``layer2.1``. What comes before the first of them, an embedding or
    a stem, is layer 0, and what comes after the last, a norm and the head, is one more layer, as in BEiT (Bao et al., 2022). Where
    no name has a number, each of the model's own children is a layer.
    """
    names = list(names)
    counted = {name: _count(name) for name in names}
    order = list(dict.fromkeys(key for key in counted.values() if key))
    if not order:
        children = list(dict.fromkeys(name.partition(".")[0] for name in names))
        return {name: children.index(name.partition(".")[0]) for name in names}
    place = {key: i + 1 for i, key in enumerate(order)}
    last = max(i for i, name in enumerate(names) if counted[name])
    found, current = {}, 0
    for i, name in enumerate(names):
        if counted[name]:
            current = place[counted[name]]
        found[name] = current if i <= last else len(order) + 1
    return found


def _count(name: str) -> str:
    """The part of a name up to its first number; empty where it has none."""
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "" if at is None else ".".join(parts[: at + 1])


def _find_spared(student: nn.Module, parameters: Mapping[str, Tensor]) -> frozenset[str]:
    """Biases, what norms have, and other parameters of one dimension; what the model names itself."""
    named: Any = getattr(student, "no_weight_decay", None)
    own = set(named()) if callable(named) else set()
    return frozenset(name for name, p in parameters.items() if p.ndim <= 1 or name.endswith(".bias") or name in own)
