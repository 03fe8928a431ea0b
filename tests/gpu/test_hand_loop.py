"""The loop in plain torch that throughput is compared with does the same work: it gives the same losses."""

from __future__ import annotations

import _gpu_cases
import pytest
import torch
from _gpu_cases import SETS, SMALL_PAIRS, Case, recipe
from _plain_loop import PlainLoop

from stillhouse import prepare
from stillhouse.data import Batch

PAIR = SMALL_PAIRS["ViT-Tiny <- ViT-Small"]
CHOSEN = [
    c for c in _gpu_cases.cases(SMALL_PAIRS) if c.kind == "plugins" and c.pair is PAIR and c.plugins != "spectral"
]
ALIKE = [("none", "bfloat16", 0), (_gpu_cases.TARGET_SET, "bfloat16", 0), (_gpu_cases.TARGET_SET, "float16", 0)]
ALIKE += [("logits", "bfloat16", 0), ("spectral, warm", "float32", 1e-6), ("all five", "float32", 1e-6)]
ALIKE += [("spectral", "float32", 1e-6)]
"""Lists of plugins, a precision, and how far apart the losses may be: to the bit where the same kernels compute them."""


def losses_of_both(case: Case, device: str, steps: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """The total losses (steps,) of Stillhouse and of the loop by hand, from one start and on one batch."""
    x = torch.rand(case.pair.batch, 3, case.pair.size, case.pair.size, generator=torch.Generator().manual_seed(1))
    target = torch.arange(case.pair.batch)
    found = []
    for side in ("stillhouse", "hand"):
        training = prepare(recipe(case, device, steps=4, workers=1), write=False)
        training.run.composition.train()
        batch = Batch(x.to(device), target.to(device), target)
        loop, trainer = PlainLoop(training), training.run.trainer
        trainer.state.epoch = trainer.state.iteration = 1
        if side == "hand":
            with loop.alone():
                losses = [loop(batch) for _ in range(steps)]
        else:
            losses = [trainer._process_function(trainer, batch) for _ in range(steps)]
        found.append(torch.stack(losses).float().cpu())
        training.close()
    return found[0], found[1]


@pytest.mark.parametrize(("plugins", "precision", "apart"), ALIKE)
def test_the_losses_are_those_of_plain_torch(plugins: str, precision: str, apart: float):
    ours, hand = losses_of_both(Case("plugins", PAIR, plugins, precision), "cpu")
    torch.testing.assert_close(ours, hand, rtol=apart, atol=0)
    assert torch.isfinite(ours).all()
    assert ours[0] != ours[2]


def test_a_teacher_of_its_own_precision():
    case = Case("precision", PAIR, _gpu_cases.TARGET_SET, "float32", {"teacher_precision": "bfloat16"})
    ours, hand = losses_of_both(case, "cpu")
    assert torch.equal(ours, hand)
    assert not torch.equal(ours, losses_of_both(Case("precision", PAIR, _gpu_cases.TARGET_SET, "float32"), "cpu")[0])


def test_the_runs_own_hooks_are_back_after_the_loops_turn():
    training = prepare(recipe(Case("plugins", PAIR, "all five"), "cpu", steps=4, workers=1), write=False)
    layer = training.run.student.get_submodule("norm")
    before = dict(layer._forward_hooks)
    loop = PlainLoop(training)
    with loop.alone():
        assert len(layer._forward_hooks) == 2  # of the link and of the spectral term
        assert not set(layer._forward_hooks.values()) & set(before.values())
    assert layer._forward_hooks == before
    assert before
    training.close()


def test_rows_are_named_once_and_cover_what_is_to_be_shown():
    found = _gpu_cases.cases(_gpu_cases.PAIRS)
    assert len({case.id for case in found}) == len(found)
    with_target = [c.pair.name for c in found if c.plugins == _gpu_cases.TARGET_SET and c.kind == "plugins"]
    assert with_target == list(_gpu_cases.PAIRS)
    for pair in _gpu_cases.PAIRS.values():
        own = {c.plugins for c in found if c.kind == "plugins" and c.pair == pair}
        assert own == set(SETS) - (set() if pair.alike else {"features", "features + normalizer"})


@pytest.mark.gpu
@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.plugins)
def test_the_same_losses_on_the_device(case: Case, device: str):
    ours, hand = losses_of_both(Case("plugins", case.pair, case.plugins, "bfloat16"), device)
    torch.testing.assert_close(ours, hand, rtol=1e-3, atol=1e-4)
