"""What the tests of speed options share."""

from __future__ import annotations

from typing import Any

import pytest

from stillhouse import StillhouseError, prepare
from support import recipe

EAGER = {"compile_args": {"backend": "eager"}}


SGD = {"name": "sgd", "lr": 1e-2, "args": {"momentum": 0.9}}
"""Adam would blow rounding up where a gradient is nothing else: that of a bias before BatchNorm."""


def state(result: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in result.student.state_dict().items()}


def faults(changes: dict[str, Any], *plugins: Any) -> dict[str, str]:
    with pytest.raises(StillhouseError) as caught:
        prepare(recipe(*plugins, **changes), write=False)
    return {f.where: str(f) for f in caught.value.faults}
