"""What models return, and how the output of interest is read from it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
import torchvision
from support import TinyNet, recipe
from torch import Tensor, nn

from stillhouse import train
from stillhouse.errors import StillhouseError
from stillhouse.outputs import find_reader


def test_a_tensor_is_read_as_it_is() -> None:
    assert find_reader(torch.zeros(2, 3), "student") is None


@pytest.mark.parametrize(
    "output",
    [
        {"out": torch.ones(2, 3), "aux": torch.zeros(2, 3)},
        OrderedDict(features=torch.zeros(2, 9), logits=torch.ones(2, 3)),
        {"loss": None, "logits": torch.ones(2, 3)},
        (torch.ones(2, 3), torch.zeros(2, 3)),
        [torch.ones(2, 3)],
        torchvision.models.inception.InceptionOutputs(torch.ones(2, 3), torch.zeros(2, 3)),
    ],
)
def test_dicts_and_tuples(output: Any) -> None:
    read = find_reader(output, "student")
    assert read is not None
    assert torch.equal(read(output), torch.ones(2, 3))
    assert torch.equal(read(torch.ones(4, 3)), torch.ones(4, 3))  # what such a model returns in eval mode


def test_predicted_depths_get_their_channel() -> None:
    read = find_reader({"predicted_depth": torch.ones(2, 5, 6)}, "student")
    assert read is not None
    assert read({"predicted_depth": torch.ones(3, 5, 6)}).shape == (3, 1, 5, 6)
    whole = find_reader({"predicted_depth": torch.ones(2, 1, 5, 6)}, "student")
    assert whole is not None
    assert whole({"predicted_depth": torch.ones(3, 1, 5, 6)}).shape == (3, 1, 5, 6)


def test_detectors_outputs_are_left_alone() -> None:
    assert find_reader({"loss_classifier": torch.tensor(1.0), "loss_box_reg": torch.tensor(2.0)}, "student") is None
    assert find_reader([{"boxes": torch.zeros(0, 4)}, {"boxes": torch.zeros(1, 4)}], "student") is None


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            {"a": torch.zeros(2, 3), "b": 1},
            r"student: returns a dict of a, b \(give the output under one of out, logits",
        ),
        ({}, "returns a dict of nothing"),
        (
            (None, torch.zeros(2)),
            r"returns tuple of NoneType, Tensor \(a tensor, a tuple whose first is one, or a dict",
        ),
        (3.0, r"returns float \(.*wrap the model in one whose forward returns a tensor"),
    ],
)
def test_what_cannot_be_told(output: Any, said: str) -> None:
    with pytest.raises(StillhouseError, match=said):
        find_reader(output, "student")
    assert find_reader(output, "teacher") is None  # methods that read its layers can do without


class Wrapped(nn.Module):
    """TinyNet that returns more than logits: a dict, or a tuple in training alone."""

    def __init__(self, kind: str = "dict", num_classes: int = 3) -> None:
        super().__init__()
        self.net, self.kind = TinyNet(num_classes, dropout=0.0), kind

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        if self.kind == "dict":
            return {"aux": logits.detach() * 2, "logits": logits}
        return (logits, logits.detach() * 2) if self.training else logits


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_a_run_with_such_a_student_and_teacher_is_that_of_plain_ones(kind: str) -> None:
    def run(wrap: bool) -> Any:
        torch.manual_seed(0)
        models: list[Any] = [Wrapped(kind), Wrapped(kind)]
        student, teacher = models if wrap else [m.net for m in models]
        return train(recipe({"use": "logits"}, teacher=None), student=student, teacher=teacher, write=False)

    plain, wrapped = run(wrap=False), run(wrap=True)
    assert wrapped.metrics == plain.metrics
    states = plain.student.state_dict(), wrapped.student.net.state_dict()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
