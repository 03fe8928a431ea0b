"""Images of any mode and arrays of either layout become one or three channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stillhouse.data.images import decode, to_tensor
from stillhouse.errors import StillhouseError


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 7, [7]),
        ("1", 1, [255]),
        ("LA", (7, 255), [7]),
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (1, 2, 3, 255), [1, 2, 3]),
        ("P", 0, [0, 0, 0]),
        ("CMYK", (0, 0, 0, 0), [255, 255, 255]),
    ],
)
def test_every_mode_becomes_one_or_three_channels(mode: str, value: Any, expected: list[int]) -> None:
    tensor = to_tensor(Image.new(mode, (3, 2), value))
    assert tensor.dtype == torch.uint8
    assert tuple(tensor.shape) == (len(expected), 2, 3)
    assert tensor[:, 1, 2].tolist() == expected


def test_arrays_with_channels_first_or_last() -> None:
    array = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    expected = torch.from_numpy(array.transpose(2, 0, 1).copy())
    assert torch.equal(to_tensor(array), expected)
    assert torch.equal(to_tensor(array.transpose(2, 0, 1)), expected)
    assert torch.equal(to_tensor(array[..., 0]), expected[:1])
    with pytest.raises(StillhouseError, match="no defined range"):
        to_tensor(Image.new("F", (3, 2)))


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(StillhouseError) as caught:
        decode(tmp_path / "gone.png")
    assert caught.value.faults[0].where == str(tmp_path / "gone.png")
