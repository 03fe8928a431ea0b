"""A detector in two processes: the losses of one, whatever its sums are divided by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.detectors import detection_tables
from support.process_support import alone, found, norm, start

OWN = {"width": 8, "stages": 3, "channels": 64, "image_size": 64}
GENTLE = {"name": "sgd", "lr": 5e-4}
"""With steps so small the rounding of sums stays what it is; larger ones let it grow, in one process as well."""


@pytest.mark.parametrize(
    ("model", "args", "steps"),
    [
        ("stillhouse.models:detector", OWN, 52),
        pytest.param("support.detectors:small_ssd", {}, 12, marks=pytest.mark.slow),
        pytest.param("support.detectors:small_retinanet", {}, 12, marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_losses_of_one(model: str, args: dict[str, Any], steps: int, tmp_path: Path) -> None:
    tables = detection_tables(model, args=args, n=4 * steps, optimizer=GENTLE)
    curve, result = alone(tables)
    ended = start(tables, tmp_path / "two")
    assert [code for code, _ in ended] == [0, 0], ended
    first = found(tmp_path / "two")
    assert curve.shape == (steps, 2)
    np.testing.assert_allclose(first["curve"], curve, rtol=5e-4)  # sums in another order
    assert first["norm"] == pytest.approx(norm(result.student), rel=1e-5)
    assert first["metrics"]["val"] == pytest.approx(result.metrics["val"], rel=1e-3, abs=1e-3)
