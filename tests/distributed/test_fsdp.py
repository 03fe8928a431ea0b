"""What FSDP2 needs that can be seen in one process."""

from __future__ import annotations

import torch
from torch import nn

from stillhouse.distributed.fsdp import _copy_without_values


def test_an_outline_takes_no_memory_and_keeps_what_is_shared_and_what_is_frozen():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[1].weight = model[0].weight
    model[2].weight.requires_grad_(False)
    model[2].register_buffer("own", torch.arange(3), persistent=False)
    outline = _copy_without_values(model, "meta")
    assert all(p.is_meta for p in outline.parameters())
    assert outline[1].weight is outline[0].weight
    whole = _copy_without_values(outline, "cpu")
    whole.load_state_dict(model.state_dict())
    assert whole[1].weight is whole[0].weight
    assert [p.requires_grad for p in whole.parameters()] == [p.requires_grad for p in model.parameters()]
    assert torch.equal(whole[2].own, model[2].own)
    x = torch.randn(3, 4)
    assert torch.equal(whole.eval()(x), model.eval()(x))
