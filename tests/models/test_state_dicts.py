"""Weights in other people's files: wrapped, prefixed, averaged, of another precision, grid or number of classes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import FEATURES, TinyNet, recipe, same_state
from torch import nn
from torch.optim.swa_utils import AveragedModel

from stillhouse import StillhouseError, StillhouseWarning, prepare
from stillhouse.models import vit
from stillhouse.models.state_dicts import Choice, find_state
from stillhouse.models.weights import load_weights
from stillhouse.teachers.origins import describe_teacher

TEACHER = {"model": "support:TinyNet", "args": {"width": 6}, "normalize": "same", "classes": "same"}


def net(value: float | None = None) -> TinyNet:
    made = TinyNet(width=6)
    if value is not None:
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.fill_(value)
    return made


def behind(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


class Secret:
    """A class whose making would be seen."""

    made = 0

    def __setstate__(self, state: Any) -> None:
        Secret.made += 1


def lightning(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "state_dict": {**behind("model._orig_mod.", state), "criterion.weight": torch.ones(3)},
        "hyper_parameters": argparse.Namespace(lr=0.1, secret=Secret()),
        "optimizer_states": [{"state": {0: {"momentum": torch.ones(3)}}}],
    }


FILES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "net": lambda s: {"net": s, "acc": 0.9},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer": {"state": {0: {"m": torch.ones(9)}}}},
    "data parallel": lambda s: {"model": behind("module.", s), "args": argparse.Namespace(lr=0.1)},
    "backbone": lambda s: behind("backbone.", s),
    "lightning": lightning,
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "double": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("kind", FILES)
def test_a_teacher_is_loaded_from_its_file_as_it_lies_there(kind: str, tmp_path: Path):
    state = {k: v.half().float() if v.is_floating_point() else v for k, v in net().state_dict().items()}
    torch.save(FILES[kind](state), tmp_path / "theirs.pth")
    loaded = net(0.0)
    load_weights(loaded, tmp_path / "theirs.pth")
    assert same_state(loaded.state_dict(), state)
    assert Secret.made == 0


def test_a_pickled_module_gives_its_weights_and_runs_no_code(tmp_path: Path):
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    module.register_buffer("passing", torch.ones(1), persistent=False)
    torch.save({"model": module, "secret": Secret()}, tmp_path / "whole.pt")
    loaded = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    load_weights(loaded, tmp_path / "whole.pt")
    assert same_state(loaded.state_dict(), module.state_dict())
    assert Secret.made == 0


def test_what_is_done_to_a_file_is_said_in_a_run_and_in_explain(tmp_path: Path):
    torch.save(lightning(net().state_dict()), tmp_path / "theirs.ckpt")
    made = recipe(
        FEATURES,
        {"use": "projector"},
        teacher={**TEACHER, "checkpoint": str(tmp_path / "theirs.ckpt")},
    )
    said = r"teacher.checkpoint: the prefix 'model._orig_mod.' taken off every key; left out.*: criterion.weight"
    with pytest.warns(StillhouseWarning, match=said):
        prepared = prepare(made, write=False)
    assert describe_teacher(prepared.run.teacher)[0].startswith("weights: the prefix 'model._orig_mod.'")


@pytest.mark.parametrize("names", [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("net", "ema.module")])
def test_averaged_weights_are_taken_unless_the_key_says_otherwise(names: tuple[str, str], tmp_path: Path):
    plain, average = net(1.0), AveragedModel(net(2.0))
    outer, _, inner = names[1].partition(".")
    averaged = average.state_dict()
    torch.save({names[0]: plain.state_dict(), outer: {inner: averaged} if inner else averaged}, tmp_path / "both.pt")
    loaded = net()
    for wanted, value in ((None, 2.0), (True, 2.0), (False, 1.0)):
        told = load_weights(loaded, tmp_path / "both.pt", Choice(averaged=wanted))
        assert loaded.head.bias[0].item() == value
        assert f"{'plain' if wanted is False else 'averaged'} weights under" in told[0]
    torch.save({"model": plain.state_dict()}, tmp_path / "one.pt")
    with pytest.raises(StillhouseError, match=r"averaged: the file has no averaged weights \(it has 'model'\)"):
        load_weights(loaded, tmp_path / "one.pt", Choice(averaged=True))


def test_of_two_prefixes_that_fit_one_has_to_be_chosen(tmp_path: Path):
    file = tmp_path / "dino.pt"
    torch.save({**behind("old.", net(1.0).state_dict()), **behind("new.", net(2.0).state_dict())}, file)
    loaded = net()
    with pytest.raises(StillhouseError, match=r"prefix: .*more than one prefix: 'new.', 'old.' \(prefix = \"new.\""):
        load_weights(loaded, file)
    load_weights(loaded, file, Choice(prefix="old."))
    assert loaded.head.bias[0].item() == 1.0
    with pytest.raises(StillhouseError, match=r"prefix: comes before none of the model's keys, got 'net.'"):
        load_weights(loaded, file, Choice(prefix="net."))


def test_of_several_state_dicts_that_fit_it_is_said_which_is_taken(tmp_path: Path):
    torch.save(
        {"teacher": net(1.0).state_dict(), "student": net(2.0).state_dict(), "ema": net(3.0).state_dict()},
        tmp_path / "two.pt",
    )
    loaded = net()
    told = load_weights(loaded, tmp_path / "two.pt", Choice(averaged=False))
    assert loaded.head.bias[0].item() == 2.0
    assert told[0] == "of several state dicts that fit, 'student' is taken, and not 'teacher'"
    torch.save({"model": net(1.0).state_dict(), "optimizer": {"state": {}}}, tmp_path / "one.pt")
    assert load_weights(loaded, tmp_path / "one.pt") == []


def test_a_criterions_own_keys_are_left_out(tmp_path: Path):
    torch.save({**net(1.0).state_dict(), "criterion.weight": torch.ones(3)}, tmp_path / "both.pt")
    loaded = net()
    assert load_weights(loaded, tmp_path / "both.pt") == ["left out, being none of the model's: criterion.weight"]
    assert loaded.head.bias[0].item() == 1.0
    torch.save({**net(1.0).state_dict(), "neck.weight": torch.ones(3)}, tmp_path / "other.pt")
    with pytest.raises(StillhouseError, match=r"neck\.weight"):
        load_weights(loaded, tmp_path / "other.pt")


def test_positions_go_to_a_grid_that_is_no_square(tmp_path: Path):
    square, wide = (
        vit(num_classes=3, image_size=size, patch=4, dim=8, depth=1, heads=2) for size in ((16, 16), (16, 64))
    )
    with torch.no_grad():  # each row of patches has its number
        square.position[0, 1:] = torch.arange(4.0).repeat_interleave(4)[:, None]
    torch.save(square.state_dict(), tmp_path / "square.pt")
    told = load_weights(wide, tmp_path / "square.pt")
    assert told == ["position interpolated from 4x4 patches to 4x16"]
    rows = wide.position[0, 1:].reshape(4, 16, 8)
    torch.testing.assert_close(rows, torch.arange(4.0)[:, None, None].expand(4, 16, 8), atol=1e-5, rtol=0)


def test_another_models_file_is_named_by_its_keys_without_their_common_prefix():
    found = find_state({"state_dict": behind("model.", nn.Linear(2, 2).state_dict())}, net().state_dict())
    assert (found.prefix, set(found.state)) == ("model.", {"weight", "bias"})
    assert find_state({"model": {}}, ()).state == {"model": {}}


def test_another_number_of_classes_is_told_with_the_key(tmp_path: Path):
    torch.save(TinyNet(num_classes=7, width=6).state_dict(), tmp_path / "seven.pt")
    made = recipe(FEATURES, {"use": "projector"}, teacher={**TEACHER, "checkpoint": str(tmp_path / "seven.pt")})
    with pytest.raises(StillhouseError, match=r"teacher.checkpoint: .*7 classes and not of 3.*num_classes = 7"):
        prepare(made, write=False)


@pytest.mark.parametrize("key", ["averaged", "prefix"])
@pytest.mark.parametrize("table", ["student", "teacher"])
def test_the_choice_needs_a_file(table: str, key: str):
    value = {"averaged": True, "prefix": "model."}[key]
    with pytest.raises(StillhouseError, match=f"{table}.{key}: needs `checkpoint`"):
        recipe(**{f"{table}__{key}": value})


def test_position_embeddings_of_another_grid_are_interpolated(tmp_path: Path):
    layers = pytest.importorskip("timm.layers")
    theirs = vit(num_classes=3, in_channels=1, image_size=16, patch=4, dim=16, depth=1, heads=2)
    torch.save(theirs.state_dict(), tmp_path / "vit.pt")
    ours = vit(num_classes=3, in_channels=1, image_size=24, patch=4, dim=16, depth=1, heads=2)
    told = load_weights(ours, tmp_path / "vit.pt")
    assert told == ["position interpolated from 4x4 patches to 6x6"]
    wanted = layers.resample_abs_pos_embed(theirs.position.detach(), [6, 6], num_prefix_tokens=1)
    assert torch.allclose(ours.position.detach(), wanted, atol=1e-6)
    with pytest.raises(StillhouseError, match="does not fit the model: other shapes"):  # of another width
        load_weights(
            vit(num_classes=3, in_channels=1, image_size=24, patch=4, dim=8, depth=1, heads=2), tmp_path / "vit.pt"
        )
