"""Modes are put for a while, and put back one by one."""

from __future__ import annotations

import pytest
from support import TinyNet

from stillhouse.contract.modes import keep_modes


@pytest.mark.parametrize("training", [True, False, None])
def test_each_module_gets_its_own_mode_back_also_after_an_error(training: bool | None):
    model = TinyNet()
    model.norm.eval()
    before = {name: module.training for name, module in model.named_modules()}
    during: dict[str, bool] = {}

    def fail() -> None:
        with keep_modes(model, training=training):
            during.update({name: module.training for name, module in model.named_modules()})
            model.train(not model.training)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert during == (before if training is None else dict.fromkeys(before, training))
    assert {name: module.training for name, module in model.named_modules()} == before
