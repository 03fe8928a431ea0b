"""Steps with links of given features, and projectors built for them."""

# mypy: disable-error-code="no-untyped-call"
# torch's stubs leave Tensor.backward and TorchDispatchMode untyped.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stillhouse import Link, Step
from stillhouse_projector import Projector, Projectors
from support import FakeComposition, assembly_of


def make_step(module: nn.Module, links: list[Link]) -> Step:
    composition: Any = FakeComposition([link.name for link in links], module)
    return Step(
        batch=None,
        ids=torch.arange(2),
        inputs=None,
        targets=None,
        iteration=0,
        epoch=0,
        composition=composition,
        links={link.name: link for link in links},
    )


def pair(d_s: int, d_t: int, name: str = "features/a", rows: int = 4) -> Link:
    return Link(name, torch.randn(rows, d_s), torch.randn(rows, d_t))


def built(plugin: Projector, *links: Link) -> Projectors:
    module = plugin.build(assembly_of(list(links)))
    assert isinstance(module, Projectors)
    return module


def weight_of(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach()
