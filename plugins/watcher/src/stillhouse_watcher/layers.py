"""How far an optimizer step moves each group of the student's layers, beside how large its weights are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["copy_weights", "group_layers", "measure_updates"]

MOST = 24
"""Groups in a chart that can still be read."""


def group_layers(student: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The student's trained parameters by the child that they are in; a child that holds them all is gone into."""
    prefix, children = "", dict(student.named_children())
    while len(children) == 1 and not list(student.parameters(recurse=False)):
        ((name, student),) = children.items()
        prefix, children = f"{prefix}{name}.", dict(student.named_children())
    groups: dict[str, list[nn.Parameter]] = {}
    own = [p for p in student.parameters(recurse=False) if p.requires_grad]
    if own:
        groups[prefix.rstrip(".") or "student"] = own
    for name, child in children.items():
        parameters = [p for p in child.parameters() if p.requires_grad]
        if parameters:
            groups[f"{prefix}{name}"] = parameters
    if len(groups) <= MOST:
        return groups
    names = list(groups)  # neighbours together
    size = -(-len(names) // MOST)
    runs = [names[i : i + size] for i in range(0, len(names), size)]
    return {f"{run[0]}..{run[-1]}": [p for name in run for p in groups[name]] for run in runs}


@torch.no_grad()
def copy_weights(groups: Mapping[str, Sequence[nn.Parameter]]) -> dict[str, list[Tensor]]:
    """The weights as they are."""
    return {name: [p.detach().clone() for p in parameters] for name, parameters in groups.items()}


@torch.no_grad()
def measure_updates(
    groups: Mapping[str, Sequence[nn.Parameter]], before: Mapping[str, Sequence[Tensor]]
) -> dict[str, Tensor]:
    """||w - w_before|| / ||w_before|| of each group, by tag."""
    found = {}
    for name, parameters in groups.items():
        moved = [p.detach() - old for p, old in zip(parameters, before[name], strict=True)]
        norm = torch.nn.utils.get_total_norm
        found[f"update_to_weight/{name}"] = norm(moved) / norm(list(before[name])).clamp_min(1e-12)
    return found
