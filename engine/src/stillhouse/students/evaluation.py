"""Evaluation of a run's student: on any split or other data; on the run's own data the training's own numbers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from stillhouse.assembly.evaluator import build_evaluator
from stillhouse.assembly.evaluator import evaluate as run_evaluator
from stillhouse.config.kept import KeptWeights
from stillhouse.contract.plugin import Plugin
from stillhouse.data.given import read_given
from stillhouse.errors import StillhouseError, StillhouseWarning, did_you_mean
from stillhouse.registry.order import Active
from stillhouse.students.data import open_data
from stillhouse.students.loader import rebuild, select_plugins
from stillhouse.students.saved_run import SavedRun, guarded, open_run
from stillhouse.training.devices import find_device

__all__ = ["Measured", "evaluate"]


@attrs.frozen
class Measured:
    """The result of :func:`evaluate`.

    Attributes:
        run: the run's folder.
        weights: ``best`` or ``last``.
        step: the number of optimizer steps of these weights.
        data: the data set's name.
        device: the device of the evaluation.
        samples: the number of samples by split.
        metrics: the metrics that are single numbers, by split.
        class_names: the task's classes: see :meth:`stillhouse.tasks.Task.class_names`.
        per_class: the metrics that are one number a class, by split, in the order of ``class_names``.
    """

    run: str
    weights: str
    step: int
    data: str
    device: str
    samples: dict[str, int]
    metrics: dict[str, dict[str, float]]
    class_names: tuple[str, ...]
    per_class: dict[str, dict[str, list[float]]]


@guarded
def evaluate(
    run: str | Path,
    *,
    split: str | None = None,
    data: Any = None,
    overrides: Sequence[str] = (),
    weights: KeptWeights | None = None,
    averaged: bool = False,
    batch_size: int | None = None,
    device: str | None = None,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
    plugins: Sequence[Plugin] | None = None,
    trust: bool = False,
) -> Measured:
    """Measure a run's student, as its training measured it: the same metrics, and on the same data the same numbers.

    Args:
        run: the run's folder.
        split: a split's name, or ``all``; None: ``test``, else ``val``, else ``train``, whichever the data have.
        data: other data: a recipe's file or a data set's name (:func:`stillhouse.students.data.open_data`). Inputs are
            normalised as in training. Or data sets or loaders from Python, as ``train`` takes them.
        overrides: ``data.KEY=VALUE`` each, of the data that are measured.
        weights: ``best`` or ``last``; None: the best where the run has kept them, else the last.
        averaged: the averaged weights of a run with ``[ema]``, whatever it measured itself.
        batch_size: samples in a batch; None: as the recipe says.
        device: None: as the recipe says.
        student: a module to fill, for a run that was given its student from Python.
        teacher: one of the right shapes, for a run that was given its teacher and whose plugins give metrics.
        teachers: further ones likewise, by name.
        plugins: for a run that was given its plugins from Python: the same again.
        trust: import what the run names by ``package.module:attribute`` as well; else only what is registered is built.

    Raises:
        StillhouseError: no run, no such weights, split or data, or data of other classes.
    """
    size = [] if batch_size is None else [f"data.eval_batch_size={batch_size}"]
    changes = [*overrides, *size]
    of_data = [change for change in changes if data is not None and change.startswith("data.")]
    own = [change for change in changes if change not in of_data]
    saved = open_run(run, weights=weights, averaged=averaged, overrides=own)
    place = find_device(device or saved.recipe.run.device)
    if saved.recipe.run.threads is not None:
        torch.set_num_threads(saved.recipe.run.threads)
    read = open_data(saved, data, pin=place.type == "cuda", overrides=of_data)
    try:
        splits = _choose_splits(split, read.splits)
        precision: torch.dtype = getattr(torch, saved.recipe.run.precision)
        actives = _choose_plugins(saved, plugins, {*(() if teacher is None else ("teacher",)), *(teachers or ())})
        assembly, walk = rebuild(
            saved, read, actives, device=place, precision=precision, student=student, teacher=teacher, teachers=teachers
        )
        evaluator = build_evaluator(assembly, walk.composition, walk.hooks)
        names = saved.task.class_names(read.info)
        metrics, per_class, samples = {}, {}, {}
        try:
            for name in splits:
                metrics[name] = run_evaluator(evaluator, walk.composition, read.evaluation(name), name)
                per_class[name] = _select_per_class(evaluator.state.metrics, len(names))
                samples[name] = cast("int", cast("Any", evaluator.state).rows)
        finally:
            walk.composition.remove_taps()  # the student may be the caller's
        return Measured(
            run=str(saved.folder),
            weights=saved.weights,
            step=saved.step,
            data=data if isinstance(data, str) else saved.recipe.data.name if data is None else read_given(data).name,
            device=str(place),
            samples=samples,
            metrics=metrics,
            class_names=names,
            per_class=per_class,
        )
    finally:
        read.close()


def _choose_splits(wanted: str | None, there: Sequence[str]) -> list[str]:
    if wanted == "all":
        return list(there)
    if wanted is None:
        return [next((name for name in ("test", "val") if name in there), there[0])]
    if wanted not in there:
        raise StillhouseError(f"unknown split {wanted!r}", where="--split", hint=did_you_mean(wanted, [*there, "all"]))
    return [wanted]


def _choose_plugins(saved: SavedRun, given: Sequence[Plugin] | None, teachers: set[str]) -> list[Active]:
    """Return the plugins where one gives metrics; none, with a warning, where they cannot be built."""
    try:
        actives = select_plugins(saved, "metrics", given)
        missing = [name for name, spec in saved.recipe.all_teachers.items() if spec.given and name not in teachers]
        if actives and missing:
            raise StillhouseError(f"the run's {missing[0]} came from Python, and plugins need its shapes")
    except StillhouseError as error:
        warnings.warn(f"evaluated without the plugins' own metrics: {error}", StillhouseWarning, stacklevel=4)
        return []
    return actives


def _select_per_class(values: Mapping[str, Any], classes: int) -> dict[str, list[float]]:
    """Select the metrics that are vectors of ``classes`` numbers, where that is more than one."""
    found = {name: value for name, value in values.items() if isinstance(value, Tensor) and value.ndim == 1}
    return {name: [float(v) for v in value.tolist()] for name, value in found.items() if 1 < len(value) == classes}
