"""The loop by hand that throughput is compared with does the same work: it gives the same losses."""

from __future__ import annotations

from typing import Any

import _gpu_cases
import pytest
import torch
from _gpu_cases import SETS, SMALL_PAIRS, Case, recipe
from _gpu_loop import by_hand

from stillhouse import prepare
from stillhouse.data import Batch

PAIR = SMALL_PAIRS["ViT-Tiny <- ViT-Small"]
CHOSEN = [
    c for c in _gpu_cases.cases(SMALL_PAIRS) if c.kind == "plugins" and c.pair is PAIR and c.plugins != "spectral"
]
TO_THE_BIT = [("none", "bfloat16"), ("spectral", "bfloat16"), ("all five", "bfloat16"), ("all five", "float32")]


def losses_of_both(case: Case, device: str, steps: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """The total losses (steps,) of Stillhouse and of the loop by hand, from one start and on one batch."""
    x = torch.rand(case.pair.batch, 3, case.pair.size, case.pair.size, generator=torch.Generator().manual_seed(1))
    target = torch.arange(case.pair.batch)
    found = []
    for side in ("stillhouse", "hand"):
        training = prepare(recipe(case, device, steps=4, workers=1), write=False)
        training.run.composition.train()
        batch = Batch(x.to(device), target.to(device), target)
        step: Any = by_hand(training)
        if side == "stillhouse":
            trainer = training.run.trainer
            trainer.state.epoch = trainer.state.iteration = 1
            step = lambda batch, trainer=trainer: trainer._process_function(trainer, batch)  # noqa: E731
        found.append(torch.stack([step(batch) for _ in range(steps)]).float().cpu())
        training.close()
    return found[0], found[1]


@pytest.mark.parametrize(("plugins", "precision"), TO_THE_BIT)
def test_the_same_losses_to_the_bit(plugins: str, precision: str):
    ours, hand = losses_of_both(Case("plugins", PAIR, plugins, precision), "cpu")
    assert torch.equal(ours, hand)
    assert torch.isfinite(ours).all()
    assert ours[0] != ours[2]


def test_scaled_float16_and_a_teacher_of_its_own_precision():
    for case in (
        Case("precision", PAIR, _gpu_cases.TARGET_SET, "float16"),
        Case("precision", PAIR, _gpu_cases.TARGET_SET, "float32", {"teacher_precision": "bfloat16"}),
    ):
        ours, hand = losses_of_both(case, "cpu")
        assert torch.equal(ours, hand), case.id


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
