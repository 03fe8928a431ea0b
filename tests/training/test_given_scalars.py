"""What a plugin may give as a scalar, what is said of the rest, and that the log is nobody's to empty."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support import recipe

from stillhouse import Plugin, StillhouseError, hookimpl, plugin, train
from stillhouse.training import scalars


def run(value: Any) -> dict[str, float]:
    """What is logged of a plugin that gives ``value`` as its scalar ``x``, and empties what it is told."""
    logged: dict[str, float] = {}

    @plugin
    class Gives(Plugin):
        """Gives a scalar."""

        @hookimpl
        def scalars(self, step: Any) -> Any:
            return {"x": value}

        @hookimpl
        def logged(self, step: Any, scalars: Any) -> None:
            logged.update(scalars)

    train(recipe(run__log_every=1), plugins=[Gives()], write=False)
    return logged


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3.0),
        (np.bool_(True), 1.0),
        (True, 1.0),
        (torch.tensor(1e300, dtype=torch.float64), 1e300),
        (torch.tensor([[16777217]]), 16777217.0),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    ],
)
def test_numbers_of_all_kinds_are_logged_as_they_are(value: Any, wanted: float):
    assert run(value)["plugin/gives/x"] == wanted


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (10**400, "a number that no float can be"),
        (torch.ones(1).to_sparse(), "a sparse tensor"),
        (torch.ones((), device="meta"), "on 'meta'"),
        (torch.tensor(1j), "a complex tensor"),
        (np.complex64(1j), "complex64"),
        ("high", "str"),
    ],
)
def test_what_is_no_number_is_refused_with_plugin_and_step(value: Any, said: str):
    with pytest.raises(StillhouseError, match=r"epoch 1, step 1: plugin 'gives': scalars gave") as caught:
        run(value)
    assert said in str(caught.value)


def test_an_error_in_scalars_says_in_which_step():
    @plugin
    class Fails(Plugin):
        """Fails in the third step."""

        @hookimpl
        def scalars(self, step: Any) -> Any:
            return {"x": 1 / (2 - step.iteration)}

    with pytest.raises(ZeroDivisionError) as caught:
        train(recipe(run__log_every=1), plugins=[Fails()], write=False)
    assert "epoch 1, step 3" in caught.value.__notes__


def test_a_plugin_cannot_empty_the_log_of_others():
    @plugin
    class Empties(Plugin):
        """Empties what it is told."""

        @hookimpl
        def logged(self, step: Any, scalars: Any) -> None:
            scalars.clear()

    with pytest.raises(AttributeError, match="clear"):
        train(recipe(run__log_every=1), plugins=[Empties()], write=False)


def test_all_processes_exchange_one_type_whatever_each_is_given(monkeypatch: pytest.MonkeyPatch):
    sent: list[torch.dtype] = []

    def mean(values: torch.Tensor) -> torch.Tensor:
        sent.append(values.dtype)
        return values

    monkeypatch.setattr(scalars.parallel, "is_distributed", lambda: True)
    monkeypatch.setattr(scalars.parallel, "mean_over_processes", mean)
    loss = torch.tensor(0.5)
    for given in (0.1, torch.tensor(0.1), torch.tensor(0.1, dtype=torch.float64), torch.tensor(3)):
        found = scalars._copied({("total", "total"): loss, ("plugin", "x"): given})
        assert found["plugin", "x"] == float(given)
    assert len(set(sent)) == 1
