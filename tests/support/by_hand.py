"""The five plugins' training step as one would write it without Stillhouse: what it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from stillhouse.data import Batch
from stillhouse_features.alignment import read_pair
from stillhouse_features.distances import distance
from stillhouse_logits import soft_target_divergence
from stillhouse_normalizer import normalize
from stillhouse_spectral import tail_energy
from stillhouse_spectral.rows import to_feature_rows


def by_hand(
    training: Any, student_layer: str, teacher_layer: str, rank: int, clear: Callable[[], None] | None = None
) -> Callable[[Any, Batch], Any]:
    """A training step on the very modules of ``training``, forward hooks included; it returns the total loss.

    The same modules, because where a model lies in memory moves a step's time by more than the engine does. ``clear`` lets
    go of the gradients; the optimizer's ``zero_grad`` if it is None.
    """
    run = training.run
    student, teacher, optimizer = run.student, run.teacher, training.optimizer
    projector = run.module("projector")
    link = f"features/{student_layer}"
    loss = run.task.loss
    clear = clear or optimizer.zero_grad
    options = run.plugins[0].links[0]
    student_taps, teacher_taps = (model.taps for model in run.composition.models.values())

    def step(_engine: Any, batch: Batch) -> torch.Tensor:
        logits = student(batch.input)
        with torch.no_grad():
            targets = teacher(batch.input)
        features = student_taps.take()[student_layer]
        z, t = read_pair(features, teacher_taps.take()[teacher_layer], options)
        t = normalize(t, "layer", 1e-5, "cholesky")
        total = loss(logits, batch.target)
        total = total + distance(projector(link, z), t)
        total = total + tail_energy(to_feature_rows(features, "mean"), rank)
        total = total + soft_target_divergence(logits, targets, 4.0)
        total.backward()
        optimizer.step()
        with torch.no_grad():
            projector.retract()
        clear()
        return total.detach()

    return step
