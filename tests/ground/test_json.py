"""JSON has no NaN, whoever's number it is."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from stillhouse.files import replace_nonfinite, to_json
from stillhouse.nested import to_number


def test_what_is_not_finite_is_null_wherever_it_lies():
    tables = {
        "a": [1, 2.5, math.nan, {"b": (math.inf, True, None, "NaN")}],
        "c": np.float32("-inf"),
        "d": np.array([1.0, math.nan]),
        "e": torch.tensor([math.inf, 2.0]),
        "f": np.int64(3),
        "g": np.bool_(True),
    }
    text = to_json(tables)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [1, 2.5, None, {"b": [None, True, None, "NaN"]}],
        "c": None,
        "d": [1.0, None],
        "e": [None, 2.0],
        "f": 3,
        "g": True,
    }
    assert to_json([math.nan], indent=None) == "[null]"
    assert replace_nonfinite({"x": 0.25}) == {"x": 0.25}


@pytest.mark.parametrize(
    "value",
    [
        2,
        2.0,
        np.float16(2),
        np.int8(2),
        np.array(2.0),
        np.array([[2.0]]),
        torch.tensor(2),
        torch.tensor([2.0]),
        Fraction(2),
    ],
)
def test_a_number_of_any_library_is_a_number(value: object):
    found = to_number(value)
    assert found == 2.0
    assert type(found) is float


@pytest.mark.parametrize("value", [None, "2", [2.0], np.zeros(2), torch.zeros(2), {}, 1j, torch.tensor(1j)])
def test_what_is_no_single_number_is_none(value: object):
    assert to_number(value) is None
