"""Tensors in nested tuples, lists and dicts: mapped, cut by rows, listed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from stillhouse.nested import list_tensors, map_tensors, slice_rows


class Pair(NamedTuple):
    """A tuple with names."""

    x: Any
    y: Any


def test_every_tensor_is_reached_and_what_holds_it_keeps_its_kind():
    tree = Pair((torch.ones(2), None), [{"boxes": torch.ones(1, 4), "name": "a"}])
    made = map_tensors(lambda x: x + 1, tree)
    assert isinstance(made, Pair)
    assert made.x[0].tolist() == [2, 2]
    assert made.x[1] is None
    assert made.y[0]["boxes"].tolist() == [[2, 2, 2, 2]]
    assert made.y[0]["name"] == "a"
    assert map_tensors(len, ["ab", 1], str) == [2, 1]


def test_rows_are_cut_of_tensors_and_lists_of_samples_and_of_each_entry_of_the_rest():
    x = torch.arange(3)
    tree = Pair({"a": x, "b": ["p", "q", "r"]}, (x, ["no", "samples"], 7))
    cut = slice_rows(tree, slice(1, 3), 3)
    assert isinstance(cut, Pair)
    assert cut.x["a"].tolist() == [1, 2]
    assert cut.x["b"] == ["q", "r"]
    assert cut.y[0].tolist() == [1, 2]
    assert cut.y[1:] == (["no", "samples"], 7)
    one = slice_rows(tree, 0, 3)
    assert (int(one.x["a"]), one.x["b"]) == (0, "p")


def test_tensors_are_listed_in_order():
    a, b, c = torch.zeros(1), torch.ones(1), torch.ones(2)
    found = list_tensors({"z": [c, "text"], "b": (b,), "a": a})
    assert all(x is y for x, y in zip(found, [a, b, c], strict=True))
    assert list_tensors(None) == []
    assert all(isinstance(x, Tensor) for x in found)
