"""The probe of a teacher: the accuracy of a linear probe on its features, from a run's own labels."""

from __future__ import annotations

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillhouse import Recipe, StillhouseError, prepare
from stillhouse.teachers.cache import CacheSpec, Pool, reading, tap_name
from stillhouse_tcs.probe import fit_probe

__all__ = ["probe_teacher"]


def probe_teacher(recipe: Recipe, layer: str = "", pool: Pool = "mean") -> dict[str, float]:
    """The probe's accuracy by split (``val``, ``test``): what the recipe's teacher tells of its classes by itself.

    The probe is a logistic regression on the evaluation features of the recipe's labelled training images, divided by
    one scalar as the plugin divides them. Less the accuracy of a student that is trained on the same labels without a
    teacher, it says whether there is anything to distil: where that is not positive, no comparison of methods means much.

    Args:
        recipe: a run's; its plugins are left out.
        layer: the teacher's; empty: what the model itself returns.
        pool: how that becomes a vector.

    Raises:
        StillhouseError: no teacher, no such layer, targets that are not classes, or as :func:`stillhouse.prepare`.
    """
    training = prepare(attrs.evolve(recipe, plugins=()), write=False)
    try:
        run, teacher = training.run, training.run.teacher
        if teacher is None:
            raise StillhouseError("needs a teacher", where="teacher")
        if run.data.target != "class":
            raise StillhouseError(f"a probe needs targets of kind 'class', got {run.data.target!r}", where="data")
        found: dict[str, tuple[Tensor, NDArray[np.int64]]] = {}
        with reading(teacher, run.task, CacheSpec(taps=(layer,), pool=pool), run.device) as read:
            for split in ("train", "val", "test"):
                if split in run.data.sizes:
                    pairs = [(read(b)[tap_name(layer)].cpu(), b.target) for b in training.data.evaluation(split)]
                    found[split] = torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]).numpy()
    finally:
        training.close()
    train, labels = found.pop("train")
    mean = train.double().mean(0)  # taken away before anything is rounded: it may be large against the spread
    scale = float((train.double() - mean).square().sum(0).div(len(train) - 1).mean().sqrt())
    weight, bias = fit_probe(((train - mean) / scale).float(), labels, run.data.classes)
    return {
        split: float(((((x - mean) / scale).float() @ weight.T + bias).argmax(1).numpy() == y).mean())
        for split, (x, y) in found.items()
    }
