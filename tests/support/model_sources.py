"""Models built for data of a given shape, and short runs on digits, from wherever models are."""

from __future__ import annotations

from typing import Any

import pytest

from stillhouse import Recipe, train
from stillhouse.data import DataInfo
from stillhouse.errors import StillhouseError
from stillhouse.models import ModelSpec, build_model
from support import TESTS


def info(shape: tuple[int, ...] = (3, 32, 32), classes: int = 7) -> DataInfo:
    return DataInfo(classes, tuple(map(str, range(classes))), shape, {"train": 10}, "")


def build(model: str, data: DataInfo | None = None, **options: Any) -> Any:
    base = options.pop("base", None)
    return build_model(ModelSpec(model=model, **options), data or info(), seed=0, where="student", base=base)


def fault_of(model: str, data: DataInfo | None = None, **options: Any) -> str:
    with pytest.raises(StillhouseError) as caught:
        build(model, data, **options)
    (fault,) = caught.value.faults
    return str(fault)


def digits(student: dict[str, Any], teacher: dict[str, Any], link: dict[str, Any], size: int = 32) -> Recipe:
    return Recipe.from_dict(
        {
            "run": {"name": "sources", "epochs": 1, "device": "cpu", "threads": 1, "base": str(TESTS)},
            "data": {"name": "sklearn:digits", "size": size, "channels": 3, "per_class": 2, "batch_size": 10},
            "student": student,
            "teacher": teacher,
            "plugins": [{"use": "features", "links": [link]}, {"use": "projector", "kind": "linear"}],
        }
    )


def learns(recipe: Recipe) -> None:
    result = train(recipe, write=False)
    assert result.summary["steps_done"] == 2
    assert 0.0 <= result.metrics["test"]["accuracy"] <= 1.0


CONVNET = {"model": "stillhouse.models:convnet", "args": {"width": 8}}
