"""Stillhouse trains as a loop written by hand does, to the bit: the same operations on the same numbers in the same order."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from ignite.engine import Events
from support import FIVE, recipe, same_state
from support.by_hand import by_hand

from stillhouse import prepare
from stillhouse import seeds as rng

NO_DROPOUT = {"model": "support:TinyNet", "args": {"width": 4, "dropout": 0.0}}
"""A run's masks follow from seed and step: a loop by hand draws others."""


def test_the_five_plugins_train_as_the_loop_by_hand():
    plugins = [FIVE["features"], FIVE["normalizer"], FIVE["projector"], FIVE["spectral"], FIVE["logits"]]
    changes = {"run__epochs": 4, "student": NO_DROPOUT, "speed": {"fold_norms": False}}  # compared to the bit
    ours, hand = (prepare(recipe(*plugins, **changes), write=False) for _ in range(2))
    step = by_hand(hand, "body", "body", 2)
    losses: list[torch.Tensor] = []
    ours.run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output))
    ours.fit()
    rng.seed_everything(rng.derive(hand.run.seed, "training"))
    hand.run.student.train()
    stream = hand.data.training()
    expected = [step(None, next(stream)) for _ in range(hand.run.total_steps)]
    assert len(losses) == 12
    assert torch.equal(torch.stack(losses), torch.stack(expected))
    assert same_state(ours.run.student.state_dict(), hand.run.student.state_dict())
    assert same_state(ours.run.module("projector").state_dict(), hand.run.module("projector").state_dict())


def test_fifty_steps_are_those_of_a_loop_in_plain_torch_with_the_formulas_of_the_papers():
    """Logit distillation and a feature loss, of torch's own operations alone: no function of the project in the step."""
    plugins = [FIVE["features"], FIVE["normalizer"], {"use": "projector", "kind": "linear"}, FIVE["logits"]]
    ours = prepare(
        recipe(*plugins, run__epochs=17, student=NO_DROPOUT),
        write=False,
    )
    student, teacher = copy.deepcopy(ours.run.student), copy.deepcopy(ours.run.teacher)
    assert teacher is not None
    (start,) = copy.deepcopy(list(ours.run.module("projector").parameters()))
    losses: list[float] = []
    ours.run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output)))
    stream = ours.data.training()
    batches = [next(stream) for _ in range(50)]
    ours.fit()

    for model in (student, teacher):
        model.body._forward_hooks.clear()  # the run's own taps
    seen: dict[str, torch.Tensor] = {}
    student.body.register_forward_hook(lambda _m, _i, output: seen.update(student=output))
    teacher.body.register_forward_hook(lambda _m, _i, output: seen.update(teacher=output))
    matrix = torch.nn.Parameter(start.detach().clone())
    optimizer = torch.optim.AdamW(
        [{"params": student.parameters()}, {"params": [matrix], "weight_decay": 0.0}], lr=1e-2
    )
    student.train()
    teacher.eval()
    expected = []
    for batch in batches:
        logits = student(batch.input)
        with torch.no_grad():
            wanted = teacher(batch.input)
        t = seen["teacher"].mean((2, 3))
        t = (t - t.mean(1, keepdim=True)) / (t.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        p = (wanted / 4).softmax(1)
        kd = 16 * (p * (p.log() - (logits / 4).log_softmax(1))).sum(1).mean()
        loss = F.cross_entropy(logits, batch.target) + ((seen["student"].mean((2, 3)) @ matrix.T - t) ** 2).mean() + kd
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert len(losses) == 51
    torch.testing.assert_close(losses[:50], expected, rtol=0, atol=1e-5)
    assert losses[49] < 0.5 * losses[0]
