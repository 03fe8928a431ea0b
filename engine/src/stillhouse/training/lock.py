"""A run's lock: what its result follows from besides its recipe, and what of that two runs have to have alike: see :mod:`stillhouse.training.facts`.

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

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from stillhouse.config.home import shorten_home
from stillhouse.config.recipe import Recipe
from stillhouse.config.structure import unstructure
from stillhouse.contract.batch import DataInfo
from stillhouse.contract.task import Task
from stillhouse.entries import DATA, MODELS, TASKS, find_scheme
from stillhouse.registry.order import Active
from stillhouse.teachers.code import hash_code
from stillhouse.teachers.outputs import name_outputs

__all__ = ["make_lock"]

_VERSIONS = ("stillhouse", "torch", "torchvision", "pytorch-ignite", "numpy")


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
