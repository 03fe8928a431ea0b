"""What the coordinate path is refused with: students, data and options that do not go with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import TinyNet, recipe
from torch import nn

from stillhouse import StillhouseError, StillhouseWarning, prepare
from stillhouse_tcs import TCS

BASE = {"use": "tcs", "layer": "dropout"}
"""The mean of ``body``, 6 numbers, is what the teacher's dropout is given and, in evaluation, gives."""


class Conv(nn.Module):
    """Its last layer is a convolution."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.side = nn.Linear(2, 5)
        self.last = nn.Conv2d(1, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x).mean((2, 3))


class Mean(nn.Module):
    """Its output is the mean of two heads, as DeiT's is."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(36, num_classes), nn.Linear(36, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.one(x.flatten(1)) + self.two(x.flatten(1))) / 2


class Tokens(nn.Module):
    """Its head is applied to every token."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(6, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x[:, 0])[:, 0]


@pytest.mark.parametrize(
    ("student", "said"),
    [
        (Conv(), r"needs a linear layer of 3 outputs \(linear layers: side \(2 to 5\)\)"),
        (Mean(), r"the output of the layer 'two' must be the student's output .*: one"),
        (Tokens(), "the output of the layer 'head' must be the student's output"),
    ],
)
def test_a_student_without_such_a_head_is_refused(student: nn.Module, said: str):
    with pytest.raises(StillhouseError, match=said) as caught:
        prepare(recipe(BASE), student=student, write=False)
    assert "plugin 'tcs'" in str(caught.value)


def test_what_the_data_cannot_give_is_refused():
    with pytest.raises(StillhouseError, match=r"plugin 'tcs': k: must be at most 6, got 7: 24 samples of 6 features"):
        prepare(recipe({**BASE, "k": 7}), write=False)
    with pytest.raises(StillhouseError, match="keep: must be at most the 3 axes, got 5"):
        prepare(recipe({**BASE, "k": 3, "select": "train", "keep": 5}), write=False)
    constant = TinyNet(width=6)
    with torch.no_grad():
        constant.body.weight.zero_()
    with pytest.raises(StillhouseError, match="features that vary, got 6 equal ones for all 24 samples"):
        prepare(recipe(BASE), teacher=constant, write=False)
    with pytest.warns(StillhouseWarning, match="span 2 dimensions: 2 are used"):
        prepare(recipe({**BASE, "k": 1.0}, data__per_class=1), write=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 0}, r"\.k \(tcs\): must be a whole number >= 1 or a share in .*, got 0"),
        ({"k": 1.5}, r"or a share in .*, got 1\.5"),
        ({"keep": 0, "views": -1, "hashes": 0}, r"\.hashes \(tcs\): must be >= 1, got 0"),
        ({"temperature": 0.0}, r"\.temperature \(tcs\): must be > 0 and at most 10,000, got 0.0"),
        ({"path": "none"}, "must be 'coordinates' for mimic = 'pca_mse'"),
        ({"path": "none", "mimic": "logits", "select": "train"}, "and select = 'train', got 'none'"),
        ({"mimic": "elhs"}, "must be one of 'pca_mse', 'elsh', 'logits', 'none', got 'elhs'"),
        ({"k": "all"}, "must be a whole number or a number, got 'all'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], said: str):
    with pytest.raises(StillhouseError, match=said):
        prepare(recipe({**BASE, **options}), write=False)


def test_presets_give_what_is_not_given():
    assert (TCS().mimicking, TCS().selecting) == ("pca_mse", "none")
    paper = TCS(preset="paper")
    assert (paper.mimicking, paper.selecting) == ("elsh", "train")
    assert TCS(preset="paper", mimic="pca_mse").mimicking == "pca_mse"
    assert TCS(preset="paper", select="none").selecting == "none"


def test_it_needs_a_teacher_and_no_mixed_batches():
    with pytest.raises(StillhouseError, match="needs a teacher"):
        prepare(recipe(BASE, teacher=None), write=False)
    with pytest.raises(StillhouseError, match="remembers the teacher's answers by sample"):
        prepare(recipe(BASE, data__batch_transforms=[{"use": "MixUp"}]), write=False)
