"""What each loss term pulls at: the norms of its gradients by parameter group on the first batch, for ``explain --gradients``."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from rich.table import Table
from torch import Tensor
from torch.optim import Optimizer

from stillhouse import seeds as rng
from stillhouse.assembly.snapshot import unchanged
from stillhouse.assembly.walk import Walk
from stillhouse.contract.batch import Batch
from stillhouse.contract.run import Run
from stillhouse.contract.step import Step
from stillhouse.loop.step import new_step
from stillhouse.terminal import make_table

__all__ = ["make_gradient_table", "measure_gradients"]


class Ready(Protocol):
    """What is measured of a run that is ready to start: see :class:`stillhouse.training.session.Training`."""

    run: Run
    walk: Walk
    optimizer: Optimizer

    def first_batch(self) -> Batch:
        """The batch that the run begins with."""
        ...


def measure_gradients(training: Ready) -> list[dict[str, Any]]:
    """Take each term's gradient on the first batch, and put everything back.

    Returns:
        For each term: ``term``; its ``weight`` in the first step and its ``value``; ``norms``, the Euclidean norm of the
        gradient of value times weight by the optimizer's parameter group, None where the term does not reach the group;
        ``cosine``, that of its gradient and the task's over the student's group, None where one of them is 0.
        A term at weight 0 in the first step is absent.
    """
    composition = training.walk.composition
    groups = {str(group["name"]): list(group["params"]) for group in training.optimizer.param_groups}
    models = (training.run.student, *training.run.all_teachers.values(), composition.plugins)
    with rng.preserve_state(), unchanged(models[0], *models[1:]), torch.enable_grad():
        rng.seed_everything(rng.derive(training.run.seed, "training"))
        composition.train()
        step = new_step(training.first_batch(), composition)
        composition.prepare([step])
        composition.forward(step)
        found = [_measure(step, name, groups) for name in step.losses]
        task = found[0][1]
        step.clear()
    for row, gradient in found:
        row["cosine"] = _cosine(gradient, task)
    return [row for row, _ in found]


def _measure(step: Step, name: str, groups: dict[str, list[Tensor]]) -> tuple[dict[str, Any], Tensor | None]:
    value, weight = step.losses[name], step.weights[name]
    norms: dict[str, float | None] = {}
    of_student: Tensor | None = None
    for group, parameters in groups.items():
        trained = [p for p in parameters if p.requires_grad]
        gradients: tuple[Tensor | None, ...] = (None,)
        if value.requires_grad and trained:
            gradients = torch.autograd.grad(value * weight, trained, retain_graph=True, allow_unused=True)
        reached = [g for g in gradients if g is not None]
        norms[group] = float(torch.stack([g.double().norm() for g in reached]).norm()) if reached else None
        if group == "student" and reached:
            of_student = torch.cat(
                [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(trained, gradients, strict=True)]
            ).double()
    return {"term": name, "weight": weight, "value": float(value.detach()), "norms": norms}, of_student


def _cosine(one: Tensor | None, other: Tensor | None) -> float | None:
    if one is None or other is None:
        return None
    scale = float(one.norm() * other.norm())
    return float(one @ other) / scale if scale > 0 else None


def make_gradient_table(rows: list[dict[str, Any]]) -> Table:
    """The table of :func:`measure_gradients`."""
    groups = list(rows[0]["norms"]) if rows else []
    title = "gradients on the first batch: norms of weighted terms by parameter group"
    table = make_table("term", "weight", *groups, "cosine with the task's", title=title)
    for row in rows:
        norms = ["not reached" if row["norms"][group] is None else f"{row['norms'][group]:.4g}" for group in groups]
        cosine = "-" if row["cosine"] is None else f"{row['cosine']:.3f}"
        table.add_row(row["term"], f"{row['weight']:g}", *norms, cosine)
    return table
