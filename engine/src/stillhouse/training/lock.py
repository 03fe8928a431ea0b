"""A run's lock: what its result follows from besides its recipe, and what of that two runs have to have alike.

=================  =============================================================================================
``plugins``        compared: the versions of their distributions. Their options are the recipe's; their order
                   follows from the list and is information.
``code``           compared: plugins, task, data and models that no version tells: files beside a recipe, packages
                   that are worked on.
``versions``       compared.
``sources``        compared: the teachers' weights, and those that the student starts from.
``data``           compared: the content, where the recipes ask for the same.
``python``         told of where it differs, as ``threads`` and ``device_name`` are: last digits may follow from them.
``recipe``         compared by who looks for a run that is finished already.
``seed``           pairs runs.
``device``         information, as ``data_info`` and ``outputs`` are: what whoever builds the model again has to know.
=================  =============================================================================================
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from stillhouse.config.data import DataSpec
from stillhouse.config.home import shorten_home
from stillhouse.config.recipe import BESIDE_THE_RESULT, Recipe
from stillhouse.config.structure import unstructure
from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.entries import DATA, MODELS, TASKS, find_scheme
from stillhouse.registry.order import Active
from stillhouse.teachers.code import hash_code
from stillhouse.teachers.outputs import name_outputs

__all__ = ["list_changes", "list_facts", "list_surroundings", "make_lock"]

Facts = dict[tuple[str, str], str]
"""What two runs must have alike: by what it is, and by what has to agree for it to be comparable at all."""

_VERSIONS = ("stillhouse", "torch", "torchvision", "pytorch-ignite", "numpy")
_BESIDE_THE_DATA = (*BESIDE_THE_RESULT["data"], "name", "batch_size", "drop_last", "batch_transforms")
"""Keys of ``[data]`` that the hash of the content does not follow from."""


def make_lock(
    recipe: Recipe,
    actives: Sequence[Active],
    device: torch.device,
    data: DataInfo,
    task: Task,
    sources: Mapping[str, str],
) -> dict[str, Any]:
    """The lock of a run that begins.

    Args:
        recipe: resolved.
        actives: its plugins in order.
        device: where it runs.
        data: what is known of its data.
        task: the student's.
        sources: hashes of the weights that it starts from and learns from, by their table in the recipe.
    """
    return {
        "plugins": [
            {
                "name": a.name,
                "use": a.use,
                "distribution": a.distribution,
                "version": a.version,
                "options": shorten_home(unstructure(a.plugin)),
                "order": a.reason,
            }
            for a in actives
        ],
        "code": hash_code(recipe, actives),
        "versions": {name: _version(name) for name in dict.fromkeys((*_VERSIONS, *_brought(recipe)))},
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "seed": recipe.run.seed,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "sources": dict(sources),
        "data": data.fingerprint,
        "data_info": {k: v for k, v in unstructure(data).items() if k != "fingerprint"},
        "outputs": {"count": task.outputs(data), "names": list(name_outputs(task, data))},
        "recipe": recipe.digest(),
    }


def list_facts(recipe: Recipe, lock: Mapping[str, Any]) -> Facts:
    """What a run must have alike with those that it is compared with; what an older lock lacks is left out."""
    found: Facts = {("the version of " + name, ""): str(told) for name, told in lock.get("versions", {}).items()}
    for plugin in lock.get("plugins", ()):
        told = f"{plugin['distribution']} {plugin['version']}".strip()
        if told:
            found["the version of " + plugin["distribution"], ""] = plugin["version"]
    for name, digest in lock.get("code", {}).items():
        label, _, path = name.partition(" ")
        found[f"the code of {label}", path] = digest[:12]
    seed = recipe.run.seed
    tables = recipe.to_dict()
    for role, digest in lock.get("sources", {}).items():
        table: Any = tables
        for key in role.split("."):
            table = table.get(key, {}) if isinstance(table, Mapping) else {}
        follows = seed if isinstance(table, Mapping) and table.get("same_labels") else None
        found[f"the weights of {role}", _digest([table, follows])] = digest[:12]
    if "data" in lock:
        found["the data", _digest([*_describe_reading(recipe), tables["task"]])] = str(lock["data"])[:12]
    return found


def list_surroundings(lock: Mapping[str, Any]) -> dict[str, str]:
    """What a run's last digits may follow from, and what does not make it another one."""
    known = {"python": "python", "threads": "threads", "device_name": "device"}
    return {name: str(lock[key]) for key, name in known.items() if key in lock}


def list_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What has changed since a run began, one sentence each.

    Returns:
        What makes it another run, and what does not.
    """
    refused = ["the data has changed since the run began"] if now["data"] != before.get("data") else []
    sources = before.get("sources", {})
    refused += [
        f"the weights of {role} have changed since the run began"
        for role, digest in now["sources"].items()
        if role != "student" and sources.get(role, digest) != digest  # the student's come from its checkpoint
    ]
    notes = [
        f"{name} was {before['versions'].get(name) or 'absent'} and is {told or 'absent'}"
        for name, told in now["versions"].items()
        if before["versions"].get(name) != told
    ]
    versions = {p["name"]: p["version"] for p in before["plugins"]}
    notes += [
        f"plugin {p['name']} was version {versions[p['name']]} and is {p['version']}"
        for p in now["plugins"]
        if p["name"] in versions and versions[p["name"]] != p["version"]
    ]
    code = before.get("code", {})
    notes += [
        f"the code of {name.replace(' ', ', ')} has changed"
        for name, digest in now["code"].items()
        if code.get(name, digest) != digest
    ]
    for key, what in (("device", "the device"), ("threads", "the number of threads"), ("python", "Python")):
        if before.get(key, now[key]) != now[key]:
            notes.append(f"{what} was {before[key]} and is {now[key]}")
    return refused, notes


def _describe_reading(recipe: Recipe) -> list[Any]:
    """What of a recipe the hash of its data follows from, whatever the content."""
    spec: DataSpec = recipe.data
    tables = {key: value for key, value in unstructure(spec).items() if key not in _BESIDE_THE_DATA}
    subset = spec.per_class is not None or spec.limit is not None
    return [tables, recipe.run.seed if subset and spec.subset_seed is None else None]


def _brought(recipe: Recipe) -> list[str]:
    """The distributions whose task, data set or model the recipe names."""
    named = ((TASKS, recipe.task.name), (DATA, recipe.data.name), (MODELS, recipe.student.model))
    found = (find_scheme(group, name) for group, name in named)
    return [scheme[0].distribution for scheme in found if scheme is not None]


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()
