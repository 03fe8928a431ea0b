"""Precision options on the device: what dtype each thing has, that the loss is near float32's, and that float16 is scaled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from support import FIVE, recipe, same_state

from stillhouse import prepare, train
from stillhouse.loop.phases import Phase

pytestmark = pytest.mark.gpu

PLUGINS = [*(table for name, table in FIVE.items() if name != "spectral"), {**FIVE["spectral"], "method": "warm"}]
STILL = {"model": "support:TinyNet", "args": {"width": 4, "dropout": 0.0}}
"""Without dropout, whose draws differ from device to device."""


def watched(device: str, precision: str, **changes: Any) -> dict[str, Any]:
    """Dtypes and values of every step's features, links and losses; the trained student's state."""
    made = recipe(
        *PLUGINS,
        run__device=device,
        run__precision=precision,
        student=STILL,
        optimizer={"lr": 1e-3, "args": {"fused": True}},
        **changes,
    )
    training = prepare(made, write=False)
    seen: dict[str, Any] = {"features": set(), "teacher": set(), "links": set(), "losses": set(), "values": []}

    def look() -> None:
        step = training.run.trainer.state.step
        seen["features"] |= {x.dtype for x in step.student.features.values()}
        seen["teacher"] |= {x.dtype for x in step.teacher.features.values()}
        seen["links"] |= {x.dtype for link in step.links.values() for x in (link.student, link.teacher)}
        seen["losses"] |= {loss.dtype for loss in step.losses.values()}
        seen["values"].append({name: float(loss.detach()) for name, loss in step.losses.items()})

    training.run.trainer.add_event_handler(Phase.LOSSES_COMPUTED, look)
    result = training.fit()
    seen["devices"] = {p.device.type for p in result.student.parameters()}
    seen["dtypes"] = {p.dtype for p in result.student.parameters()}
    return seen


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_models_run_in_half_precision_and_methods_in_float32(precision: str, device: str):
    low, full = watched(device, precision), watched(device, "float32")
    assert low["features"] == low["teacher"] == {getattr(torch, precision)}
    assert full["features"] == {torch.float32}
    assert low["links"] == low["losses"] == {torch.float32}
    assert low["dtypes"] == {torch.float32}, "the weights stay in full precision"
    assert low["devices"] == {device}
    assert len(low["values"]) == 6
    for name, value in full["values"][0].items():
        assert low["values"][0][name] == pytest.approx(value, rel=0.05, abs=2e-3), name


def test_a_teacher_in_bfloat16_beside_a_student_in_float32(device: str):
    seen = watched(device, "float32", speed={"teacher_precision": "bfloat16"})
    assert (seen["features"], seen["teacher"]) == ({torch.float32}, {torch.bfloat16})


def norm_of_first_gradient(training: Any) -> float:
    """Train; the Euclidean norm of the student's gradient in the first step, as plugins see it."""
    norms: list[float] = []

    def look() -> None:
        gradients = [p.grad.norm() for p in training.run.student.parameters()]
        norms.append(float(torch.stack(gradients).norm()))

    training.run.trainer.add_event_handler(Phase.BACKWARD_COMPLETED, look)
    training.fit()
    return norms[0]


def test_float16_is_scaled_and_its_gradients_are_seen_as_they_are(device: str):
    training = prepare(
        recipe(FIVE["features"], FIVE["projector"], run__device=device, run__precision="float16", student=STILL),
        write=False,
    )
    plain = prepare(recipe(FIVE["features"], FIVE["projector"], run__device=device, student=STILL), write=False)
    first = [norm_of_first_gradient(one) for one in (training, plain)]
    assert first[0] == pytest.approx(first[1], rel=0.05)


def test_float32_trains_as_on_the_cpu(device: str):
    # Exact products: TF32 would differ in the third digit.
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        there, here = watched(device, "float32"), watched("cpu", "float32")
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept
    for ours, reference in zip(there["values"][:3], here["values"][:3], strict=True):
        assert ours == pytest.approx(reference, rel=2e-3, abs=1e-4)


def test_a_run_on_the_device_resumes(device: str, tmp_path):
    made = recipe(
        *PLUGINS,
        run__device=device,
        run__precision="bfloat16",
        optimizer={"lr": 1e-3, "args": {"fused": True}},
        checkpoints={"every_steps": 2},
    )
    whole = train(made, out=tmp_path / "whole")
    training = prepare(made, out=tmp_path / "cut")

    def stop() -> None:
        if training.run.trainer.state.iteration == 5:
            raise KeyboardInterrupt

    training.run.trainer.add_event_handler(Events.ITERATION_COMPLETED, stop)
    with pytest.raises(KeyboardInterrupt):
        training.fit()
    again = train(made, out=tmp_path / "cut", resume=True)
    assert again.summary["resumed_at_step"] == 4
    if device == "cpu":
        assert same_state(whole.student.state_dict(), again.student.state_dict())
    for name, value in whole.student.state_dict().items():
        torch.testing.assert_close(value, again.student.state_dict()[name], rtol=1e-3, atol=1e-4)
