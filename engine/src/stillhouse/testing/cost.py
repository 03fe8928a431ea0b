"""What a plugin costs: numbers in its module, time and memory of a step with it and without."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from stillhouse.contract.plugin import Plugin
from stillhouse.testing.report import Cost
from stillhouse.testing.subject import Subject

__all__ = ["measure_cost"]

_EPOCHS = 6


def measure_cost(subject: Subject) -> Cost:
    """What ``subject`` adds to the run that it was tried in; the times are this machine's, of small models."""
    module = subject.whole.training.run.composition.modules_of.get(subject.name)
    parameters = sum(p.numel() for p in module.parameters() if p.requires_grad) if module is not None else 0
    others = [*module.buffers(), *(p for p in module.parameters() if not p.requires_grad)] if module is not None else []
    with_it = _measure(subject, subject.listed())
    without = (None, None) if subject.plain is None else _measure(subject, subject.without())
    return Cost(
        parameters=parameters,
        buffers=sum(x.numel() for x in others),
        milliseconds=with_it[0],
        milliseconds_without=without[0],
        saved_bytes=with_it[1],
        saved_bytes_without=without[1],
    )


def _measure(subject: Subject, plugins: list[Plugin]) -> tuple[float, int]:
    """The median of a step's milliseconds, and the bytes that autograd keeps of its last one."""
    training = subject.prepare(plugins, {"run": {"epochs": _EPOCHS}})
    trainer = training.run.trainer
    process, times, kept = trainer._process_function, [], dict[int, int]()

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    def timed(engine: Any, batch: Any) -> Any:
        if engine.state.iteration == training.run.total_steps:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
                return process(engine, batch)
        started = time.perf_counter()
        result = process(engine, batch)
        times.append((time.perf_counter() - started) * 1e3)
        return result

    trainer._process_function = timed
    subject.finish(training)
    return statistics.median(times[3:] or times or [0.0]), sum(kept.values())
