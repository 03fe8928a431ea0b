"""The ignite engine that measures, and a split measured with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric

from stillhouse import seeds as rng
from stillhouse.assembly.shape_pass import UNFIT, model_error
from stillhouse.assembly.snapshot import unchanged
from stillhouse.contract.assembly import Assembly
from stillhouse.contract.batch import Batch
from stillhouse.contract.modes import keep_modes
from stillhouse.contract.protocols import Composed
from stillhouse.distributed import processes as parallel
from stillhouse.distributed.fsdp import reshard
from stillhouse.errors import StillhouseError
from stillhouse.layout import format_shape
from stillhouse.loop.composition import Composition
from stillhouse.loop.engines import LeanEngine
from stillhouse.loop.step import new_step
from stillhouse.nested import slice_rows, to_number
from stillhouse.registry.hooks import Hooks, named_values

__all__ = ["build_evaluator", "evaluate", "try_out"]


def build_evaluator(assembly: Assembly, composition: Composition, hooks: Hooks) -> Engine:
    """The engine that measures the student: in eval mode, without gradient, the plugins not called.

    Its output, which metrics transform, is a dict: ``output``, ``target``, ``input``, and ``features`` of the tapped layers.

    Raises:
        StillhouseError: two metrics have one name.
    """

    def evaluation_step(engine: Engine, batch: Batch) -> dict[str, Any]:
        step = new_step(batch, composition)
        composition.run_student(step)
        output = {
            "output": step.student.output,
            "target": step.targets,
            "input": step.inputs,
            "features": dict(step.student.features),  # of the tapped layers, for plugins' metrics
        }
        rows = len(step.ids)
        step.clear()
        state: Any = engine.state
        state.rows += rows
        if state.rows > state.real:  # the last row only fills up this process's share
            state.rows -= 1
            output = {key: slice_rows(value, slice(rows - 1), rows) for key, value in output.items()}
        return output

    evaluator = LeanEngine(evaluation_step)
    metrics: dict[str, Metric] = dict(assembly.task.metrics(assembly.data))
    for plugin, function in hooks.calls("metrics"):
        for name, metric in named_values(plugin, "metrics", function, assembly).items():
            if not isinstance(metric, Metric):
                raise StillhouseError(
                    f"metrics gave {type(metric).__name__} as {name!r}",
                    where=f"plugin {plugin.name!r}",
                    hint="an ignite Metric, such as Average()",
                )
            if name in metrics:
                raise StillhouseError(
                    f"gives a metric {name!r}, which is there already", where=f"plugin {plugin.name!r}"
                )
            metrics[name] = metric
    for name, metric in metrics.items():
        metric.attach(evaluator, name)
    return evaluator


def evaluate(
    evaluator: Engine,
    composition: Composed,
    batches: Any,
    split: str,
    then: Callable[[dict[str, float]], None] | None = None,
) -> dict[str, float]:
    """Run ``evaluator`` over ``batches``; modes, generators and the student's buffers are afterwards as they were.

    Some buffers move in eval mode too: what is measured on must not go into the student.

    The evaluator's handlers find the split's name in its ``state.split``, and how many samples are measured in ``state.rows``.

    Args:
        evaluator: the engine that measures.
        composition: student and plugins' modules, put into eval mode meanwhile.
        batches: every sample of the split once.
        split: its name.
        then: called with what this returns, while all of them are still in eval mode and there is no gradient.

    Returns:
        The metrics that are single numbers, by name.
    """
    state: Any = evaluator.state
    state.split = split
    # A share that another process fills up has a row that counts there.
    state.rows, state.real = 0, getattr(batches, "real", sys.maxsize)
    parallel.broadcast_buffers(composition.student)
    try:
        with keep_modes(composition, training=False), rng.preserve_state(), torch.no_grad():
            try:
                with unchanged(composition.student):
                    ended = evaluator.run(batches, max_epochs=1)
            except StillhouseError as error:
                raise error.within(f"split {split!r}") from error
            found = _single_numbers(ended.metrics)
            if then is not None:
                then(found)
    finally:
        reshard(composition.student)
    return found


def try_out(evaluator: Engine, assembly: Assembly, composition: Composition, batch: Batch, split: str) -> None:
    """Have the student answer two samples of ``split`` in eval mode and the metrics take that in, and forget it all.

    What cannot be measured would otherwise show after an epoch.

    Raises:
        StillhouseError: the task or the student cannot take these samples, or a metric says what is wrong.
    """
    state: Any = evaluator.state
    state.split, state.rows, state.real = split, 0, sys.maxsize
    try:
        with unchanged(composition), keep_modes(composition, training=False), rng.preserve_state(), torch.no_grad():
            try:
                state.output = evaluator._process_function(evaluator, batch)
            except UNFIT as error:
                raise model_error("student", format_shape(batch.input), error, " in eval mode") from error
            if assembly.task.one_output:
                assembly.task.check(state.output["output"], state.output["target"], assembly.data)
            evaluator.fire_event(Events.EPOCH_STARTED)  # where metrics begin anew
            evaluator.fire_event(Events.ITERATION_COMPLETED)  # where they take in a batch
            evaluator.fire_event(Events.EPOCH_STARTED)
    except StillhouseError as error:
        raise error.within(f"split {split!r}") from error.__cause__
    except Exception as error:
        error.add_note(f"before training, when the metrics were given two samples of the split {split!r}")
        raise
    finally:
        state.output = None
        reshard(composition.student)


def _single_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: number for name, value in metrics.items() if (number := to_number(value)) is not None}
