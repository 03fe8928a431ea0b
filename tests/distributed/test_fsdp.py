"""What FSDP2 needs that can be seen in one process."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from stillhouse import StillhouseWarning
from stillhouse.contract.task import Task
from stillhouse.distributed.fsdp import _copy_without_values
from stillhouse.loop.tapped_model import TappedModel
from stillhouse.tasks import Classification
from stillhouse.training.preview import Preview


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


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("spread", [False, True])
def test_a_spread_teacher_is_not_called_for_pictures_which_one_process_draws(spread: bool, recwarn: Any):
    """All processes would have to call it: the first one alone meets another collective of theirs, and ends."""

    class Drawing(Classification):
        def figures(self, data: Any, inputs: Any, output: Any, targets: Any, teacher: Any = None) -> dict[str, Any]:
            return {"teacher": teacher}

    model, calls = nn.Linear(3, 2), []
    if spread:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    model.register_forward_hook(lambda *_: calls.append(1))
    teacher = TappedModel(model, "teacher", Task(), frozen=True)
    hooks: Any = SimpleNamespace(calls=lambda _: [])
    composition: Any = SimpleNamespace(reads_teacher=True, models={"teacher": teacher})
    run: Any = SimpleNamespace(
        task=Drawing(), data=None, device="cpu", recipe=SimpleNamespace(run=SimpleNamespace(name="it"))
    )
    preview = Preview(composition, hooks)
    for _ in range(2):
        preview._spread.begin()
        preview._spread.take_in(4, {"input": torch.randn(4, 3), "output": torch.randn(4, 2), "target": torch.arange(4)})
        found = preview.figures(run)["teacher"]
        assert (found is None) == spread
    assert len(calls) == (0 if spread else 2)
    said = [str(w.message) for w in recwarn if w.category is StillhouseWarning]
    assert (
        said
        == ["it: pictures are without the teacher's answers: it is spread over the processes, and one draws them"]
        * spread
    )
