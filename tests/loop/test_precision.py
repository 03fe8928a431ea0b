"""Memory format and precision: the same results, the teacher's own precision, methods in float32."""

from __future__ import annotations

from typing import Any

import pytest
import support
import torch
from support import FIVE, recipe
from torch import nn
from torch.utils.data import TensorDataset

from stillhouse import Plugin, StillhouseError, hookimpl, plugin, prepare, train
from stillhouse.loop.phases import Phase

PAIR = [FIVE["features"], FIVE["projector"]]

NO_DROPOUT = {"model": "support:TinyNet", "args": {"width": 4, "dropout": 0.0}}

SGD = {"name": "sgd", "lr": 1e-2, "args": {"momentum": 0.9}}
"""Adam would blow rounding up where a gradient is nothing else: that of a bias before BatchNorm."""


def state(result: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in result.student.state_dict().items()}


def test_channels_last_agrees():
    settings: dict[str, Any] = {"student": NO_DROPOUT, "optimizer": SGD}
    plain = train(recipe(*FIVE.values(), **settings), write=False)
    training = prepare(recipe(*FIVE.values(), **settings, speed={"channels_last": True}), write=False)
    seen = []

    def look() -> None:
        step = training.run.trainer.state.step
        seen.append(
            [
                x.is_contiguous(memory_format=torch.channels_last)
                for x in (step.inputs, step.student.features["body"], step.teacher.features["body"])
            ]
        )

    training.run.trainer.add_event_handler(Phase.FORWARD_COMPLETED, look)
    assert training.run.student.body.weight.is_contiguous(memory_format=torch.channels_last)
    last = training.fit()
    assert seen == [[True] * 3] * 6
    assert last.student.body.weight.is_contiguous()
    for name, value in state(plain).items():
        torch.testing.assert_close(value, state(last)[name], rtol=1e-4, atol=1e-5)


def test_channels_last_is_for_images(monkeypatch):
    vectors = TensorDataset(torch.randn(24, 36), torch.arange(24) % 3)
    monkeypatch.setattr(support, "vectors", lambda: vectors, raising=False)
    training = recipe(data__name="support:vectors", teacher=None, speed={"channels_last": True})
    with pytest.raises(
        StillhouseError, match=r"speed.channels_last: it is for images \(C, H, W\), and the inputs are \(36\)"
    ):
        prepare(training, student=nn.Linear(36, 3), write=False)


@pytest.mark.parametrize("own", ["bfloat16", "float16"])
def test_the_teacher_has_a_precision_of_its_own(own: str):
    training = prepare(recipe(*PAIR, speed={"teacher_precision": own}), write=False)
    seen = []
    training.run.trainer.add_event_handler(
        Phase.FORWARD_COMPLETED,
        lambda: seen.append(
            (
                training.run.trainer.state.step.student.features["body"].dtype,
                training.run.trainer.state.step.teacher.features["body"].dtype,
            )
        ),
    )
    result = training.fit()
    assert set(seen) == {(torch.float32, getattr(torch, own))}
    full = train(recipe(*PAIR), write=False)
    for name, value in state(full).items():
        # How much half precision moves a trained weight depends on the processor.
        torch.testing.assert_close(value, state(result)[name], rtol=0.1, atol=0.05)


@pytest.mark.parametrize("teacher_precision", ["same", "float32"])
def test_same_follows_the_run(teacher_precision: str):
    training = prepare(
        recipe(*PAIR, run__precision="bfloat16", speed={"teacher_precision": teacher_precision}), write=False
    )
    models = training.run.composition.models
    expected = torch.bfloat16 if teacher_precision == "same" else torch.float32
    precisions = {name: model.precision for name, model in models.items()}
    assert precisions == {"student": torch.bfloat16, "teacher": expected}


@plugin
class Dtypes(Plugin):
    """Notes the types of links and losses."""

    after = ("features", "normalizer", "projector", "spectral", "logits")

    @hookimpl
    def transform(self, step):
        SEEN["links"] |= {x.dtype for link in step.links.values() for x in (link.student, link.teacher)}

    @hookimpl
    def losses_computed(self, step):
        SEEN["losses"] |= {loss.dtype for loss in step.losses.values()}
        SEEN["features"] |= {x.dtype for x in step.student.features.values()}
        VALUES.append({name: float(loss.detach()) for name, loss in step.losses.items()})


SEEN: dict[str, set[torch.dtype]] = {}
VALUES: list[dict[str, float]] = []


def first_losses(precision: str, plugins: list[Any]) -> dict[str, float]:
    from stillhouse.registry.plugins import plugins_in_use

    VALUES.clear()
    SEEN.update(links=set(), losses=set(), features=set())
    actives = [a.plugin for a in plugins_in_use(plugins)]
    settings: dict[str, Any] = {"student": NO_DROPOUT, "run__epochs": 1, "run__precision": precision}
    train(recipe(**settings), plugins=[*actives, Dtypes()], write=False)
    return VALUES[0]


@pytest.mark.parametrize("normalizer", ["layer", "batch", "whiten", "l2", "rms"])
@pytest.mark.parametrize("projector", ["orthogonal", "mlp"])
def test_methods_compute_in_float32_inside_autocast(normalizer: str, projector: str):
    plugins = [
        {**FIVE["features"], "links": [{"student": "body", "teacher": "body", "pool": "none"}]},
        {"use": "normalizer", "kind": normalizer, "side": "both", "eps": 1e-2},
        {"use": "projector", "kind": projector},
        {**FIVE["spectral"], "pool": "none"},
        {**FIVE["spectral"], "name": "warm", "method": "warm"},
        FIVE["logits"],
    ]
    low = first_losses("bfloat16", plugins)
    assert SEEN["features"] == {torch.bfloat16}, "or the test shows nothing"
    assert SEEN["links"] == {torch.float32}
    assert SEEN["losses"] == {torch.float32}
    full = first_losses("float32", plugins)
    assert low.keys() == full.keys()
    for name in full:
        assert low[name] == pytest.approx(full[name], rel=0.05, abs=2e-3), name
