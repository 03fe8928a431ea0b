"""What a file of weights is: its state dicts, their prefix and precision, its classes, and how a recipe loads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from stillhouse.config.model import ModelSpec
from stillhouse.config.recipe import Recipe
from stillhouse.config.references import import_object
from stillhouse.config.signatures import read_parameters
from stillhouse.config.structure import structure
from stillhouse.config.teacher import TeacherSpec
from stillhouse.contract.batch import Batch, DataInfo
from stillhouse.contract.task import Task
from stillhouse.data.base import Data
from stillhouse.data.loader import load_data
from stillhouse.entries import MODELS, find_scheme
from stillhouse.errors import StillhouseError
from stillhouse.loop.tapped_model import TappedModel
from stillhouse.models.builder import build_model
from stillhouse.models.heads import load_or_count_classes
from stillhouse.models.state_dicts import Choice
from stillhouse.models.weights import list_state_dicts, read_weights
from stillhouse.nested import to_number
from stillhouse.tasks.builder import build_task
from stillhouse.teachers.origins import describe_teacher, find_run, read_metadata
from stillhouse.teachers.sources import build_teacher

__all__ = ["FileReport", "describe_file", "measure_teacher"]

_HEADS = re.compile(r"(^|\.)(fc|head|heads|classifier|linear|last_linear|output|logits)(\.|$)")
_USUAL_SIZE = 224
_SPLIT = "val"


@attrs.frozen(kw_only=True)
class FileReport:
    """What :func:`describe_file` found.

    Attributes:
        file: its path.
        tables: the state dicts in it by their place, with how many tensors and numbers each has.
        prefix: what comes before every key of the one that is taken.
        precisions: the dtypes of its numbers.
        keys: some of its keys, without the prefix.
        classes: how many classes its last layer has; None: it does not show.
        notes: what loading it does, in words.
        lines: the recipe's table that loads it.
        metrics: of the teacher on the recipe's validation split; None: no recipe was given.
    """

    file: str
    tables: dict[str, tuple[int, int]]
    prefix: str
    precisions: tuple[str, ...]
    keys: tuple[str, ...]
    classes: int | None
    notes: tuple[str, ...]
    lines: str
    metrics: dict[str, float] | None = None


def describe_file(path: Path, table: Mapping[str, Any], recipe: Recipe | None = None) -> FileReport:
    """Say what the file at ``path`` is, load it into a model, and measure it.

    Args:
        path: a file of weights, a run's checkpoint or its folder.
        table: keys of a ``[teacher]`` table, of which ``model`` says what is to be loaded; without it nothing is.
        recipe: whose validation split the teacher is measured on, and whose ``[teacher]`` gives what ``table`` does not.

    Raises:
        StillhouseError: the file is no file of weights, or does not fit the model.
    """
    run = find_run(path)
    own = dict(table)
    if recipe is not None and recipe.teacher is not None and "model" not in own and run is None:
        told = recipe.teacher
        given = {key: getattr(told, key) for key in ("model", "args", "normalize", "size", "classes")}
        own = {**{key: value for key, value in given.items() if value}, **own}
    about = read_metadata(path)
    if about.get("model") is not None and "model" not in own:
        own = {"model": about["model"], "args": dict(about.get("args", {})), **own}
    choice = Choice(averaged=own.get("averaged"), prefix=own.get("prefix"), weights=own.get("weights"))
    found = read_weights(path, (), choice)
    classes = about.get("outputs") or _count_classes(found.state)
    notes = found.describe()
    takes_classes = "model" not in own or _takes_classes(str(own["model"]), None if recipe is None else recipe.base)
    if "model" in own:
        args = dict(own.get("args", {}))
        if classes is not None and recipe is None and takes_classes:
            args.setdefault("num_classes", classes)
        model = _build(str(own["model"]), args, found.state, recipe)
        found = read_weights(path, model.state_dict(), choice)
        notes = load_or_count_classes(model, path, choice)
    metrics = None
    kind: Literal["run", "export", "file"] = "run" if run is not None else "export" if about else "file"
    lines = _write_lines(path, own, classes if takes_classes else None, kind)
    if recipe is not None and ("model" in own or run is not None):
        spec: TeacherSpec = structure({**own, "checkpoint": str(path.resolve())}, TeacherSpec, "teacher")
        metrics, told_by = _measure(attrs.evolve(recipe, teacher=spec, teachers={}))
        notes = [*notes, *told_by]
    tensors = [value for value in found.state.values() if isinstance(value, Tensor)]
    return FileReport(
        file=str(path),
        tables={place: _size(state) for place, state in list_state_dicts(path).items()},
        prefix=found.prefix,
        precisions=tuple(sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()})),
        keys=tuple(found.state),
        classes=classes,
        notes=tuple(notes),
        lines=lines,
        metrics=metrics,
    )


def measure_teacher(model: nn.Module, task: Task, data: Data, split: str = _SPLIT) -> dict[str, float]:
    """Measure a frozen model, fitted to the data, by the task's metrics on ``split``, on the CPU.

    Raises:
        StillhouseError: the data has no such split, or the model's outputs are not the data's classes.
    """
    if split not in data.splits:
        raise StillhouseError(f"has no split {split!r} to measure on", where="data", hint="[data] val_fraction")
    tapped = TappedModel(model.requires_grad_(False).eval(), "teacher", task, frozen=True)

    def answer(_: Engine, batch: Batch) -> dict[str, Any]:
        side = tapped(batch.input)
        return {"output": side.output, "target": batch.target, "input": batch.input, "features": {}}

    engine = Engine(answer)
    for name, metric in task.metrics(data.info).items():
        metric.attach(engine, name)
    with torch.no_grad():
        found = engine.run(data.evaluation(split), max_epochs=1).metrics
    return {name: number for name, value in found.items() if (number := to_number(value)) is not None}


def _measure(recipe: Recipe) -> tuple[dict[str, float], list[str]]:
    task = build_task(recipe.task, recipe.base)
    data = load_data(recipe.data, task, seed=recipe.run.seed, base=recipe.base)
    try:
        model = build_teacher(recipe, "teacher", data.info, task, None)
        return measure_teacher(model, task, data), describe_teacher(model)
    finally:
        data.close()


def _build(name: str, args: dict[str, Any], state: Mapping[str, Any], recipe: Recipe | None) -> nn.Module:
    """The model, for the images and classes that the file or the recipe's data have."""
    if recipe is None:
        first = next((v for v in state.values() if isinstance(v, Tensor) and v.ndim == 4), None)
        channels = 3 if first is None or first.shape[1] not in (1, 3) else int(first.shape[1])
        shape = (channels, _USUAL_SIZE, _USUAL_SIZE)
        info = DataInfo(int(args.get("num_classes", 1)), (), shape, {}, "", eval_shape=shape)
        base = None
    else:
        task = build_task(recipe.task, recipe.base)
        data = load_data(recipe.data, task, seed=recipe.run.seed, base=recipe.base)
        data.close()
        info, base = attrs.evolve(data.info, classes=task.outputs(data.info)), recipe.base
    try:
        return build_model(ModelSpec(model=name, args=args), info, seed=0, where="--model", base=base)
    except StillhouseError as error:  # arguments are given by --set args.KEY=VALUE
        places = [fault.where.replace("--model.args.", "--set args.") for fault in error.faults]
        faults = [attrs.evolve(fault, where=place) for fault, place in zip(error.faults, places, strict=True)]
        raise StillhouseError(faults=faults) from error


def _takes_classes(name: str, base: Path | None) -> bool:
    """Whether a model takes its number of classes by name: those of a family do, a callable of one's own may not."""
    if ":" not in name or find_scheme(MODELS, name, "--model") is not None:
        return True
    takes, open_ended = read_parameters(import_object(name, "--model", base, MODELS))
    return open_ended or "num_classes" in takes


def _count_classes(state: Mapping[str, Any]) -> int | None:
    """The outputs of the last matrix that is called a head, or else of the last one; None where there is none."""
    matrices = [(k, v) for k, v in state.items() if isinstance(v, Tensor) and v.ndim == 2 and k.endswith("weight")]
    heads = [pair for pair in matrices if _HEADS.search(pair[0])] or matrices
    return int(heads[-1][1].shape[0]) if heads else None


def _size(state: Mapping[str, Tensor]) -> tuple[int, int]:
    return len(state), sum(value.numel() for value in state.values())


def _write_lines(
    path: Path, own: Mapping[str, Any], classes: int | None, kind: Literal["run", "export", "file"]
) -> str:
    import tomli_w

    if kind == "run":
        return tomli_w.dumps({"teacher": {"checkpoint": str(path)}})
    args = dict(own.get("args", {}))
    name = str(own.get("model", "FAMILY:NAME"))
    if classes is not None and not {"num_classes", "num_labels"} & set(args):
        args["num_labels" if name.startswith("transformers:") else "num_classes"] = classes
    rest = {key: value for key, value in own.items() if key not in ("model", "args")}
    lines = tomli_w.dumps({"model": name, "checkpoint": str(path), **rest})
    is_flat = not any(isinstance(value, Mapping) for value in args.values())
    if args and is_flat:
        lines += f"args = {{ {', '.join(tomli_w.dumps({k: v}).strip() for k, v in args.items())} }}\n"
    if "normalize" not in own and kind == "file":  # an export says it by itself
        lines += 'normalize = "imagenet"  # a file does not say; or "none", "same", { mean = [...], std = [...] }\n'
    return f"[teacher]\n{lines}" + ("" if is_flat else "\n" + tomli_w.dumps({"teacher": {"args": args}}))
