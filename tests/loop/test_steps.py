"""What a step does and leaves: weights of zero, no tensors, no gradients, no taps of another run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from support import FEATURES, TinyNet, recipe, same_state
from torch import nn

from stillhouse import Plugin, StillhouseError, Weight, hookimpl, plugin, prepare, train


def test_a_weight_of_zero_trains_exactly_as_without_the_plugin():
    plain = train(recipe(), write=False)
    off = train(recipe({**FEATURES, "weight": 0.0}, {"use": "projector"}), write=False)
    on = train(recipe({**FEATURES, "weight": 1.0}, {"use": "projector"}), write=False)
    assert same_state(plain.student.state_dict(), off.student.state_dict())
    assert not same_state(plain.student.state_dict(), on.student.state_dict())


def test_a_weight_that_is_switched_off_skips_the_term():
    called: list[int] = []

    @plugin
    class Counting(Plugin):
        """Notes the steps in which it is asked for its loss."""

        weight: Weight = 1.0

        @hookimpl
        def losses(self, step):
            called.append(step.iteration)
            return {"": step.student.output.square().mean()}

    training = prepare(recipe(), plugins=[Counting(weight={"until": 0.5})], write=False)
    called.clear()
    training.fit()
    assert called == [0, 1, 2]


@pytest.mark.parametrize("count", [7, 8, 40])
@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("dtypes", [[torch.float32], [torch.float32, torch.bfloat16, torch.float64]])
def test_many_terms_of_one_plugin_are_added_up_as_few_are(count: int, weight: float, dtypes: list[torch.dtype]):
    totals = []

    @plugin
    class Many(Plugin):
        """Terms of several types."""

        weight: Weight = 1.0

        @hookimpl
        def losses(self, step):
            x = step.student.output.float()
            return {f"t{k}": (k + 1) * x.pow(2).mean().to(dtypes[k % len(dtypes)]) for k in range(count)}

        @hookimpl
        def losses_computed(self, step):
            terms = [weight * value.double() for name, value in step.losses.items() if name != "task"]
            assert len(terms) == count
            wanted = sum(terms, step.losses["task"].double())
            assert torch.allclose(step.total.double(), wanted, rtol=1e-2 if len(dtypes) > 1 else 1e-6)
            parameters = list(step.composition.student.parameters())
            got, exact = (torch.autograd.grad(x, parameters, retain_graph=True) for x in (step.total, wanted))
            assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(got, exact, strict=True))
            totals.append(float(step.total.detach()))

    train(recipe(), plugins=[Many(weight=weight)], write=False)
    assert len(totals) > 1


def test_the_step_holds_no_tensor_after_the_epoch():
    training = prepare(recipe(FEATURES, {"use": "projector"}), write=False)
    held: list[Any] = []
    training.run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda e: held.append((e.state.step.student.features, e.state.step.losses, e.state.step.total)),
    )
    training.fit()
    assert held == [({}, {}, None)] * 2


class Zeroing(torch.optim.SGD):
    """An optimizer with a way of its own to clear gradients: it counts, and keeps them as zeros."""

    cleared = 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Count, and put zeros there."""
        Zeroing.cleared += 1
        super().zero_grad(set_to_none=False)


def test_no_gradient_is_left_over_after_a_step_and_an_optimizers_own_clearing_is_called():
    plain = prepare(recipe(), write=False)
    plain.fit()
    assert [p.grad for p in plain.run.student.parameters() if p.grad is not None] == []
    own = prepare(recipe(optimizer__name=f"{__name__}:Zeroing", optimizer__lr=0.1), write=False)
    own.fit()
    assert Zeroing.cleared == own.run.trainer.state.iteration > 0
    assert all(p.grad is not None and not p.grad.any() for p in own.run.student.parameters())


def test_two_runs_in_one_process_do_not_share_taps():
    first = prepare(recipe(FEATURES, {"use": "projector"}), write=False)
    second = prepare(recipe(FEATURES, {"use": "projector"}), write=False)
    one, two = first.fit(), second.fit()
    assert same_state(one.student.state_dict(), two.student.state_dict())
    assert not any(m._forward_hooks for m in one.student.modules())


def test_plugins_fold_away_what_training_added_in_order():
    @plugin
    class Folding(Plugin):
        """Puts a scale behind the student."""

        by: float = 2.0

        @hookimpl
        def export(self, assembly, student):
            return nn.Sequential(student, nn.Identity()) if self.by else None

    result = train(recipe(), plugins=[Folding(name="one"), Folding(name="two")], write=False)
    assert isinstance(result.student[0][0], TinyNet)
    assert not result.student.training
    with pytest.raises(StillhouseError, match="plugin 'folding': export gave NoneType"):
        train(recipe(), plugins=[Folding(by=0.0)], write=False)


def test_late_taps_on_a_compiled_student_are_refused():
    student = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    student.compile()
    with pytest.raises(StillhouseError, match="compiled already"):
        prepare(recipe({"use": "spectral", "layer": "1", "rank": 1}), student=student, write=False)
