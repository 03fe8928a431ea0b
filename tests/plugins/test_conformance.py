"""What every first-party plugin keeps to beside what the conformance kit asks of any: see tests/testing."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import pytest
import torch
from support import FIVE, recipe, same_state

from stillhouse import Plugin, prepare, train
from stillhouse.contract.hookspecs import hook_arguments
from stillhouse.contract.plugin import option_names
from stillhouse.registry.plugins import load

FIVE = {**FIVE, "tcs": {"use": "tcs", "layer": "dropout"}, "cache": {"use": "cache"}}
ROOT = Path(__file__).parents[2] / "plugins"
PROJECTS = {p.parent.name: tomllib.loads(p.read_text())["project"] for p in ROOT.glob("*/pyproject.toml")}
BROUGHT = {part: project["entry-points"].get("stillhouse.plugins", {}) for part, project in PROJECTS.items()}
PLUGINS = sorted(part for part, brought in BROUGHT.items() if list(brought) == [part])
"""The distributions of one plugin, which has their name; a pack's are tried with the pack."""


def hooks_of(cls: type[Plugin]) -> list[str]:
    return [n for n in hook_arguments() if hasattr(getattr(cls, n, None), "stillhouse_impl")]


def lists(name: str) -> list[dict]:
    """The shortest valid plugin list with ``name`` in it."""
    needs = {
        "cache": ["features", "projector"],
        "projector": ["features"],
        "normalizer": ["features", "projector"],
        "features": ["projector"],
    }
    return [FIVE[n] for n in FIVE if n == name or n in needs.get(name, [])]


@pytest.mark.parametrize(("part", "name"), sorted((part, name) for part in BROUGHT for name in BROUGHT[part]))
def test_it_says_what_it_is(part: str, name: str):
    cls, found = load(name)
    project = PROJECTS[part]
    assert found.distribution == project["name"] == f"stillhouse-{part}"
    assert found.summary == project["description"]
    assert BROUGHT[part][name] == found.target
    readme = (ROOT / part / "README.md").read_text()
    assert cls.__doc__
    documented = inspect.getdoc(cls)
    for option in option_names(cls):
        if option != "name":
            assert f"{option}:" in documented, f"{option} is not in the docstring"
            assert f"`{option}`" in readme, f"{option} is not in the README"
    for hook in hooks_of(cls):
        assert getattr(cls, hook).__doc__, f"{hook} has no docstring"


@pytest.mark.parametrize("name", PLUGINS)
def test_all_its_state_is_in_the_checkpoint(name: str):
    """Two runs of one seed, the second loaded into a third that began elsewhere: the step from there is the same."""
    one = prepare(recipe(*lists(name)), write=False)
    one.fit()
    state = {k: v.clone() for k, v in one.run.composition.state_dict().items()}
    other = prepare(recipe(*lists(name), run__seed=11), write=False)
    missing, extra = other.run.composition.load_state_dict(state, strict=True)
    assert not missing
    assert not extra
    assert same_state(state, other.run.composition.state_dict())
    for active in one.actives:
        options = [getattr(active.plugin, option) for option in option_names(type(active.plugin))]
        assert not any(isinstance(value, torch.Tensor | torch.nn.Module) for value in options)


@pytest.mark.parametrize("name", PLUGINS)
def test_it_changes_training(name: str):
    plain, changed = (train(recipe(*plugins), write=False) for plugins in ([], lists(name)))
    assert not same_state(plain.student.state_dict(), changed.student.state_dict())
