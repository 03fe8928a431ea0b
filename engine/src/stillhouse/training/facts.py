"""Facts in a run's lock: what two runs must have alike, and what has changed since a run began.

Reading a lock needs no torch, which takes seconds to import: comparisons of finished runs do without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from stillhouse.config.data import DataSpec
from stillhouse.config.recipe import BESIDE_THE_RESULT, Recipe
from stillhouse.config.structure import unstructure

__all__ = ["list_changes", "list_facts", "list_surroundings"]

Facts = dict[tuple[str, str], str]
"""What two runs must have alike: by what it is, and by what has to agree for it to be comparable at all."""

_BESIDE_THE_DATA = (*BESIDE_THE_RESULT["data"], "name", "batch_size", "drop_last", "batch_transforms")
"""Keys of ``[data]`` that the hash of the content does not follow from."""


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


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()
