"""A plugin that combines gradients, terms that do conflict, and the same training by hand: what it is compared with."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse import Plugin, Recipe, Weight, hookimpl, plugin, prepare
from support import TESTS, tables

CLASSES = 3
TERMS = ("task", "opposed/shifted", "opposed/even")


def project_conflicts(terms: Mapping[str, Sequence[Tensor]], *, shuffle: bool = False) -> list[Tensor]:
    """PCGrad (2001.06782): each term's gradient without what opposes the others', added up."""
    flat = {name: torch.cat([g.flatten() for g in gradients]) for name, gradients in terms.items()}
    parts = []
    for name, gradient in flat.items():
        others = [other for other in flat if other != name]
        if shuffle:
            random.shuffle(others)
        for other in others:
            against = flat[other]
            square = (against @ against).clamp(min=1e-20)
            gradient = gradient - torch.clamp(gradient @ against, max=0) / square * against
        parts.append(gradient)
    shapes = next(iter(terms.values()))
    pieces = torch.stack(parts).sum(0).split([g.numel() for g in shapes])
    return [piece.view_as(g) for piece, g in zip(pieces, shapes, strict=True)]


@plugin
class PcGrad(Plugin):
    """Project conflicting gradients of the terms.

    Attributes:
        shuffle: take the other terms in a random order, as the paper has it.
    """

    shuffle: bool = False

    @hookimpl
    def combine_gradients(self, step, gradients):
        assert all(len(own) == len(step.parameters) for own in gradients.values())
        return project_conflicts(gradients, shuffle=self.shuffle)


def opposed_terms(head: nn.Module, output: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Two terms that pull against the labels' cross-entropy, one of them through a module."""
    shifted = functional.cross_entropy(head(output.float()), (targets + 1) % CLASSES)
    return {"shifted": shifted, "even": -functional.log_softmax(output.float(), 1).mean()}


@plugin
class Opposed(Plugin):
    """Wants other labels, through a module of its own, and an even output."""

    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly):
        return nn.Linear(CLASSES, CLASSES)

    @hookimpl
    def losses(self, step):
        return opposed_terms(step.module(self), step.student.output, step.targets)


@plugin
class RankBuffer(Plugin):
    """Has a buffer that each process writes its rank into, and a term that is that buffer."""

    weight: Weight = 1.0

    @hookimpl
    def build(self, assembly):
        module = nn.Module()
        module.register_buffer("rank", torch.zeros(()))
        return module

    @hookimpl
    def losses(self, step):
        return {"": step.module(self).rank + 0 * step.student.output.sum()}

    @hookimpl
    def optimizer_stepped(self, run, step):
        run.module(self).rank.fill_(float(os.environ.get("RANK", "0")))


OPPOSED = {"use": "support.pcgrad:Opposed", "name": "opposed"}
PCGRAD = {"use": "support.pcgrad:PcGrad", "name": "pcgrad"}


def conflicting(*plugins: Mapping[str, Any], width: int = 4, **changes: Any) -> dict[str, Any]:
    """A recipe's tables: six steps of PlainNet by SGD in batches of 8, the terms of :class:`Opposed`, and ``plugins``."""
    run = {
        "name": "combined",
        "epochs": 2,
        "seed": 3,
        "device": "cpu",
        "log_every": 2,
        "base": str(TESTS),
        "threads": 1,
    }
    return tables(
        run={**run, **changes.pop("run", {})},
        student={"model": "support.processes:PlainNet", "args": {"width": width}},
        teacher=None,
        optimizer={"name": "sgd", "lr": 0.5, **changes.pop("optimizer", {})},
        plugins=[OPPOSED, *map(dict, plugins)],
        **changes,
    )


def by_hand(recipe: dict[str, Any]) -> tuple[dict[str, Tensor], int]:
    """The recipe's training with PCGrad, without Stillhouse's loop: the student's weights, and how many steps overflowed."""
    training = prepare(Recipe.from_dict(recipe), write=False)
    run, precision = training.run, getattr(torch, training.recipe.run.precision)
    student, head = run.student.train(), run.module("opposed")
    parameters = [p for p in run.composition.parameters() if p.requires_grad]
    scale, skipped = (65536.0 if precision == torch.float16 else 1.0), 0
    batches = iter(training.data.training())
    for _ in range(run.total_steps):
        batch = next(batches)
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            output = student(batch.input)
        terms = [functional.cross_entropy(output.float(), batch.target)]
        terms += opposed_terms(head, output, batch.target).values()
        gradients = {}
        for name, value in zip(TERMS, terms, strict=True):
            found = torch.autograd.grad(value * scale, parameters, retain_graph=True, allow_unused=True)
            gradients[name] = [
                torch.zeros_like(p) if g is None else g / scale for p, g in zip(parameters, found, strict=True)
            ]
        if not all(bool(g.isfinite().all()) for own in gradients.values() for g in own):
            scale, skipped = scale / 2, skipped + 1
            continue
        with torch.no_grad():
            for parameter, gradient in zip(parameters, project_conflicts(gradients), strict=True):
                parameter -= training.recipe.optimizer.lr * gradient
    training.close()
    return {name: value.clone() for name, value in student.state_dict().items()}, skipped


def check_weights(student: nn.Module, expected: Mapping[str, Tensor], rtol: float = 1e-6) -> None:
    """Each weight as ``expected``, relative to the largest of its tensor."""
    for name, value in student.state_dict().items():
        largest = float(expected[name].abs().max())
        torch.testing.assert_close(
            value, expected[name], rtol=0, atol=rtol * largest, msg=lambda m, n=name: f"{n}: {m}"
        )
