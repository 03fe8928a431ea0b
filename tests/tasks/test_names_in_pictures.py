"""Names of classes in pictures are shown as they are."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from stillhouse.tasks.pictures import Panel, draw, draw_bars, plain, to_picture

NAMES = ["$x_$", "_hidden", r"\frac{", "a$b", "$\\foo$"]


def test_names_are_no_formulas_and_none_is_left_out():
    classes = torch.arange(5).repeat(4, 1)
    figure = draw([[Panel("\n".join(NAMES[:2]), classes, classes=NAMES)]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_picture(figure)
        to_picture(draw_bars(torch.zeros(1, 4, 4), [(name, 1.0) for name in NAMES], "$x_$"))
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert [text.strip().replace(r"\$", "$") for text in shown] == NAMES


@pytest.mark.parametrize(("name", "other"), [("$x$", "xxx"), ("a\x1bb", "ab")])
def test_another_name_is_another_picture(name: str, other: str):
    one, two = (np.asarray(to_picture(draw([[Panel(text, torch.zeros(1, 4, 4))]]))) for text in (name, other))
    assert not np.array_equal(one, two)
    assert plain("a\x1bb") == r"a\x1bb"
