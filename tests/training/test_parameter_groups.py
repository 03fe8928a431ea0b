"""The student's parameter groups: decay that spares norms and biases, and rates that fall towards the inputs."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from support import recipe

from stillhouse import Plugin, StillhouseError, StillhouseWarning, hookimpl, plugin, prepare
from stillhouse.models import vit
from stillhouse.training.parameter_groups import number_layers

VIT = {"model": "stillhouse.models:vit", "args": {"patch": 3, "dim": 8, "depth": 2, "heads": 2}}


def groups(student: Any = VIT, **optimizer: Any) -> dict[str, dict[str, Any]]:
    training = prepare(recipe(teacher=None, student=student, optimizer={"lr": 1e-2, **optimizer}), write=False)
    names = {id(p): name for name, p in training.run.student.named_parameters()}
    return {g["name"]: {**g, "params": [names[id(p)] for p in g["params"]]} for g in training.optimizer.param_groups}


def test_without_the_keys_there_is_one_group():
    assert list(groups()) == ["student"]


def test_norms_and_biases_are_spared_of_weight_decay():
    found = groups(weight_decay=0.1, spare_norms_and_biases=True)
    assert list(found) == ["student", "student/spared"]
    assert (found["student"]["weight_decay"], found["student/spared"]["weight_decay"]) == (0.1, 0.0)
    assert all(name.endswith("bias") or "norm" in name for name in found["student/spared"]["params"])
    assert not any(name.endswith("bias") or "norm" in name for name in found["student"]["params"])
    with pytest.raises(StillhouseError, match=r"optimizer.spare_norms_and_biases: .*there is none"):
        groups(spare_norms_and_biases=True)


def test_what_timms_model_names_itself_is_spared_too():
    timm = pytest.importorskip("timm")
    student = {
        "model": "timm:vit_tiny_patch16_224",
        "args": {"img_size": 6, "patch_size": 3, "depth": 1, "in_chans": 1},
    }
    found = groups(student, weight_decay=0.1, spare_norms_and_biases=True)
    own = timm.create_model("vit_tiny_patch16_224", img_size=6, patch_size=3, depth=1, in_chans=1, num_classes=3)
    assert own.no_weight_decay() & dict(own.named_parameters()).keys() <= set(found["student/spared"]["params"])


def test_layers_have_lower_rates_towards_the_inputs():
    found = groups(layer_decay=0.5)
    assert list(found) == ["student/layer0", "student/layer1", "student/layer2", "student/layer3"]
    assert [g["lr"] for g in found.values()] == pytest.approx([1.25e-3, 2.5e-3, 5e-3, 1e-2])
    assert "head.weight" in found["student/layer3"]["params"]
    assert {"cls", "position", "embed.weight", "embed.bias"} == set(found["student/layer0"]["params"])
    both = groups(layer_decay=0.5, weight_decay=0.1, spare_norms_and_biases=True)
    assert "student/layer1/spared" in both
    assert sum(len(g["params"]) for g in both.values()) == len(list(vit(3, 1, 6, 3, 8, 2, 2).parameters()))


def test_layers_are_numbered_from_inputs_to_outputs():
    names = [
        "conv1.weight",
        "layer1.0.conv.weight",
        "layer1.1.conv.weight",
        "layer2.0.conv.weight",
        "fc.weight",
        "fc.bias",
    ]
    assert number_layers(names) == dict(zip(names, [0, 1, 2, 3, 4, 4], strict=True))
    assert number_layers(["stem.weight", "body.weight", "body.bias"]) == {
        "stem.weight": 0,
        "body.weight": 1,
        "body.bias": 1,
    }


@plugin
class Asks(Plugin):
    """Asks for a group of the student's parameters."""

    options: dict[str, Any] = attrs.field(factory=dict)

    @hookimpl
    def optimizer_options(self, assembly: Any) -> dict[str, Any]:
        return self.options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"student": "head.*"}, r"student must be a list of globs over the student's parameters, got 'head\.\*'"),
        ({"student": ["head.*"], "lr": -1.0}, r"lr must be a finite number >= 0, got -1\.0"),
        ({"student": ["head.*"], "lr": "fast"}, "lr must be a finite number >= 0, got 'fast'"),
        ({"student": ["head.*"], "weight_decay": None}, "weight_decay must be a finite number >= 0, got None"),
    ],
)
def test_options_of_a_plugin_are_looked_at(options: dict[str, Any], says: str):
    with pytest.raises(StillhouseError, match=f"plugin 'asks': optimizer_options' {says}"):
        prepare(recipe(teacher=None), plugins=[Asks(options=options)], write=False)


def test_a_glob_that_matches_nothing_is_said():
    with pytest.warns(StillhouseWarning, match=r"plugin 'asks': optimizer_options' student: 'typo\.\*' matches none"):
        prepare(recipe(teacher=None), plugins=[Asks(options={"student": ["typo.*"]})], write=False)


def test_a_plugin_takes_what_its_globs_match():
    training = prepare(recipe(teacher=None), plugins=[Asks(options={"student": ["head.*"], "lr": 0.5})], write=False)
    own = next(group for group in training.optimizer.param_groups if group["name"] == "asks")
    assert own["lr"] == 0.5
    assert {id(p) for p in own["params"]} == {id(p) for p in training.run.student.head.parameters()}
